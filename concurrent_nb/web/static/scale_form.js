// @ts-check
// The number of workers of a cluster, and a button that changes it.

import { button, element, plain, setText } from "./dom.js";
import { count, visible } from "./text.js";

/** @typedef {import('./dom.js').Translate} Translate */

export const WORKERS_MAX = 1000;

/** @param {unknown} text @returns {number | null} null if it is no number of workers */
export function workersOf(text) {
  const value = Number(text);
  return String(text).trim() !== "" && Number.isInteger(value) && value >= 1 && value <= WORKERS_MAX ? value : null;
}

/**
 * @param {any} answer of the method `scale` @param {Translate} t
 * @returns {string}
 */
export function scaledWords(answer, t) {
  const asked = Number(answer?.asked) || 0;
  const before = Number(answer?.before) || 0;
  if (asked === before) return t("it has %1 already", count(asked));
  return asked > before ? t("%1 more come", count(asked - before)) : t("%1 leave", count(before - asked));
}

export class ScaleForm {
  /**
   * @param {import('./feed_model.js').FeedModel} model
   * @param {(workers: number) => Promise<any>} scale the method of the master
   * @param {Translate} [translate]
   */
  constructor(model, scale, translate = plain) {
    const t = translate;
    this.t = t;
    this.model = model;
    this.scale = scale;
    this.isEdited = false;
    /** what was asked for last, until there are so many */
    this.awaited = 0;
    this.field = element("input", "cnb-input", "", {
      type: "number",
      min: "1",
      max: String(WORKERS_MAX),
      "aria-label": t("Number of workers"),
      title: t("Workers of the slaves that the cluster has started itself"),
    });
    this.field.addEventListener("input", () => (this.isEdited = true));
    const fewer = button("−", () => this.#step(-1), "cnb-square", t("One worker fewer"));
    const more = button("+", () => this.#step(1), "cnb-square", t("One worker more"));
    fewer.setAttribute("aria-label", t("One worker fewer"));
    more.setAttribute("aria-label", t("One worker more"));
    this.submit = element("button", "cnb-button", t("Scale"), { type: "submit" });
    this.submit.title = t("More come as one more slave; those that leave end their running tasks first");
    this.said = element("span", "cnb-muted cnb-clip", "", { role: "status" });
    const label = element("span", "cnb-muted", t("Workers"), { "aria-hidden": "true" });
    this.element = element("form", "cnb-scale", [label, fewer, this.field, more, this.submit, this.said], {
      "aria-label": t("Scale the cluster"),
    });
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#send();
    });
  }

  update() {
    if (this.awaited && this.awaited === this.model.totals.slots) {
      this.awaited = 0;
      setText(this.said, "");
    }
    // What somebody is typing stays.
    if (this.isEdited || document.activeElement === this.field) return;
    const slots = String(this.model.totals.slots);
    if (this.field.value !== slots) this.field.value = slots;
  }

  /** @param {number} by */
  #step(by) {
    const workers = (workersOf(this.field.value) ?? this.model.totals.slots) + by;
    this.field.value = String(Math.max(1, Math.min(WORKERS_MAX, workers)));
    this.isEdited = true;
  }

  async #send() {
    const workers = workersOf(this.field.value);
    if (workers === null) {
      setText(this.said, this.t("a number from 1 to %1", count(WORKERS_MAX)));
      return;
    }
    this.submit.disabled = true;
    try {
      const words = scaledWords(await this.scale(workers), this.t);
      setText(this.said, words);
      this.said.title = "";
      this.isEdited = false;
      this.awaited = workers;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      setText(this.said, visible(why, 300));
      this.said.title = visible(why, 1000);
    }
    this.submit.disabled = false;
  }
}
