// @ts-check
// Traces as files, and for Perfetto's page. Loaded with the first trace that somebody asks for.

import { element } from "./dom.js";
import { readTrace } from "./trace_events.js";

/** @typedef {(method: string, params: Record<string, unknown>) => Promise<any>} Call a method of the master */
/** @typedef {import('./feed_model.js').Job} Job */

const PERFETTO = "https://ui.perfetto.dev";
const PING_MS = 50;
/** its page may have to be loaded first */
const PONG_WITHIN_MS = 60_000;

/**
 * Give a trace to Perfetto's page, which answers PING with PONG as soon as it listens: see "Deep linking to Perfetto
 * UI" in its documentation. The page keeps the trace in the browser.
 * @param {any} tab Perfetto's window @param {Promise<{text: string, title: string}>} trace
 * @param {any} [page] this window
 * @returns {Promise<void>} rejects if the page does not answer, or is closed
 */
export async function handToPerfetto(tab, trace, page = window) {
  await new Promise((resolve, reject) => {
    let left = Math.ceil(PONG_WITHIN_MS / PING_MS);
    const end = () => {
      page.clearInterval(timer);
      page.removeEventListener("message", heard);
    };
    const timer = page.setInterval(() => {
      left -= 1;
      if (left > 0 && !tab.closed) tab.postMessage("PING", PERFETTO);
      else {
        end();
        reject(new Error(tab.closed ? "Perfetto's tab was closed" : "Perfetto's page does not answer: save the trace"));
      }
    }, PING_MS);
    const heard = (/** @type {any} */ event) => {
      if (event.source !== tab || event.origin !== PERFETTO || event.data !== "PONG") return;
      end();
      resolve(undefined);
    };
    page.addEventListener("message", heard);
    trace.catch((error) => {
      end();
      reject(error);
    });
  });
  const { text, title } = await trace;
  const { buffer } = new TextEncoder().encode(text);
  tab.postMessage({ perfetto: { buffer, title, fileName: `${title}.json` } }, PERFETTO, [buffer]);
}

/** @param {Job} job @returns {string} a name for a file, of letters, digits and dashes */
export function traceName(job) {
  const name = job.name
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 60);
  return `trace-${name || "job"}-${job.id.slice(0, 8)}`;
}

/** @param {Call} call @param {Job} job @returns {Promise<{tasks: number, dropped: number}>} what the file has */
export async function saveTrace(call, job) {
  const trace = await readTrace(call, job.id);
  const url = URL.createObjectURL(new Blob([trace.text], { type: "application/json" }));
  element("a", "", "", { href: url, download: `${traceName(job)}.json` }).click();
  // Not at once: some browsers read it a moment later.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  return trace;
}

/** @param {Call} call @param {Job} job @param {Window} tab @returns {Promise<{tasks: number, dropped: number}>} */
export async function openTrace(call, job, tab) {
  const trace = readTrace(call, job.id);
  const title = traceName(job);
  await handToPerfetto(
    tab,
    trace.then(({ text }) => ({ text, title })),
  );
  return trace;
}
