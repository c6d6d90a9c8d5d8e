// @ts-check
// "Save trace" and "Open in Perfetto" of a job: nothing is read or opened before a click.

import { button, element, plain, setText } from "./dom.js";
import { count, visible } from "./text.js";

/** @typedef {import('./feed_model.js').Job} Job */
/** @typedef {{tasks: number, dropped: number}} Told */

/** What makes traces is loaded when somebody wants one. @returns {Promise<typeof import('./trace_files.js')>} */
const files = () => import(new URL("trace_files.js", import.meta.url).href);

export class TraceTools {
  /**
   * @param {(method: string, params: Record<string, unknown>) => Promise<any>} call of the master
   * @param {() => Job | null} job that is shown
   * @param {import('./dom.js').Translate} [translate]
   */
  constructor(call, job, translate = plain) {
    const t = translate;
    this.t = t;
    this.job = job;
    this.told = "";
    const act = (/** @type {(job: Job) => Promise<Told>} */ work) => () => void this.#busy(work);
    this.save = button(
      t("Save trace"),
      act(async (one) => (await files()).saveTrace(call, one)),
      "cnb-small",
      t("Save when and where its tasks ran, as a file in Chrome's trace format"),
    );
    this.open = button(
      t("Open in Perfetto"),
      act(async (one) => {
        // Before anything is awaited: later the browser would take it for a pop-up that nobody wants.
        const tab = window.open("https://ui.perfetto.dev");
        if (!tab) throw new Error(t("the browser has opened no tab: allow pop-ups of this page, or save the trace"));
        return (await files()).openTrace(call, one, tab);
      }),
      "cnb-small",
      t("Open ui.perfetto.dev in a new tab, and hand it the trace there: the trace stays in your browser"),
    );
    this.said = element("span", "cnb-muted", "", { role: "status" });
    this.element = element("div", "cnb-trace-tools", [this.save, this.open, this.said]);
  }

  update() {
    // What was said about another job says nothing about this one.
    if (this.told && this.told !== this.job()?.id) setText(this.said, "");
  }

  /** @param {(job: Job) => Promise<Told>} work */
  async #busy(work) {
    const { t } = this;
    const job = this.job();
    if (!job) return;
    this.save.disabled = this.open.disabled = true;
    this.told = job.id;
    setText(this.said, t("reading the trace"));
    try {
      const { tasks, dropped } = await work(job);
      const kept = tasks === 1 ? t("1 task") : t("%1 tasks", count(tasks));
      setText(this.said, dropped ? t("%1; %2 earlier ones are not kept any more", kept, count(dropped)) : kept);
    } catch (error) {
      setText(this.said, visible(error instanceof Error ? error.message : String(error), 300));
    }
    this.save.disabled = this.open.disabled = false;
  }
}
