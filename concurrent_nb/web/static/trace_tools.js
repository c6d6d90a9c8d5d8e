// @ts-check
// "Save trace" and "Open in Perfetto" of a job: nothing is read or opened before a click.

import { button, element, plain, setText } from "./dom.js";
import { count, visible } from "./text.js";
import { readTrace } from "./trace_events.js";

/** @typedef {import('./dom.js').Translate} Translate */
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

export class TraceTools {
  /**
   * @param {(method: string, params: Record<string, unknown>) => Promise<any>} call of the master
   * @param {() => Job | null} job that is shown
   * @param {Translate} [translate]
   */
  constructor(call, job, translate = plain) {
    const t = translate;
    this.t = t;
    this.call = call;
    this.job = job;
    this.save = button(
      t("Save trace"),
      () => void this.#save(),
      "cnb-small",
      t("Save when and where its tasks ran, as a file in Chrome's trace format"),
    );
    this.open = button(
      t("Open in Perfetto"),
      () => void this.#open(),
      "cnb-small",
      t("Open ui.perfetto.dev in a new tab, and hand it the trace there: the trace stays in your browser"),
    );
    this.said = element("span", "cnb-muted", "", { role: "status" });
    this.element = element("div", "cnb-trace-tools", [this.save, this.open, this.said]);
  }

  async #save() {
    const job = this.job();
    if (!job) return;
    await this.#busy(async () => {
      const trace = await readTrace(this.call, job.id);
      const url = URL.createObjectURL(new Blob([trace.text], { type: "application/json" }));
      const link = element("a", "", "", { href: url, download: `${traceName(job)}.json` });
      link.click();
      // Not at once: some browsers read it a moment later.
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      return this.#words(trace);
    });
  }

  async #open() {
    const job = this.job();
    if (!job) return;
    // Before anything is awaited: later the browser would take it for a pop-up that nobody wants.
    const tab = window.open(PERFETTO);
    await this.#busy(async () => {
      if (!tab) {
        throw new Error(this.t("the browser has not opened a tab: allow pop-ups of this page, or save the trace"));
      }
      const trace = readTrace(this.call, job.id);
      await handToPerfetto(
        tab,
        trace.then(({ text }) => ({ text, title: traceName(job) })),
      );
      return this.#words(await trace);
    });
  }

  /** @param {{tasks: number, dropped: number}} trace */
  #words({ tasks, dropped }) {
    const kept = tasks === 1 ? this.t("1 task") : this.t("%1 tasks", count(tasks));
    return dropped ? this.t("%1; %2 earlier ones are not kept any more", kept, count(dropped)) : kept;
  }

  /** @param {() => Promise<string>} work */
  async #busy(work) {
    this.save.disabled = this.open.disabled = true;
    setText(this.said, this.t("reading the trace"));
    try {
      setText(this.said, await work());
    } catch (error) {
      setText(this.said, visible(error instanceof Error ? error.message : String(error), 300));
    }
    this.save.disabled = this.open.disabled = false;
  }
}
