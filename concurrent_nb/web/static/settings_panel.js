// @ts-check
// The settings of a running master that may change now, for admins.

import { element, plain, setForeign, setText } from "./dom.js";
import { visible } from "./text.js";

/** @typedef {{value: unknown, help: string, note: string, hot: boolean}} Setting */
/** @typedef {(method: string, params?: Record<string, unknown>) => Promise<any>} Call */

/**
 * Give the value that was typed, with the type of the one that there is.
 * @param {string} typed @param {unknown} before
 * @returns {unknown} null if it is no such value
 */
export function valueOf(typed, before) {
  if (typeof before === "boolean") return { true: true, false: false }[typed.trim().toLowerCase()] ?? null;
  if (Array.isArray(before)) return typed.split(",").flatMap((part) => part.trim() || []);
  if (typeof before !== "number") return typed;
  const number = Number(typed);
  return typed.trim() !== "" && Number.isFinite(number) ? number : null;
}

/** @param {unknown} value @returns {string} as it can be typed */
export function textOf(value) {
  return Array.isArray(value) ? value.join(", ") : String(value ?? "");
}

/** Asks for the settings when it is opened; shows why a change was refused beside the setting. */
export class SettingsPanel {
  /** @param {Call} call @param {{translate?: import("./dom.js").Translate}} [options] */
  constructor(call, options = {}) {
    this.call = call;
    this.t = options.translate ?? plain;
    this.rows = element("div", "cnb-settings");
    this.status = element("p", "cnb-muted", "", { role: "status" });
    const summary = element("summary", "", this.t("Settings that may change while it runs"));
    this.element = element("details", "cnb-details", [summary, this.status, this.rows]);
    this.element.addEventListener("toggle", () => this.element.open && void this.refresh());
  }

  async refresh() {
    try {
      const items = Object.entries(await this.call("config"));
      const hot = /** @type {[string, Setting][]} */ (
        items.filter(([, item]) => /** @type {any} */ (item)?.hot === true)
      );
      setText(this.status, hot.length ? "" : this.t("There is none."));
      this.rows.replaceChildren(...hot.map(([name, item]) => this.#row(name, item)));
    } catch (error) {
      setText(this.status, visible(error instanceof Error ? error.message : error, 400));
      this.rows.replaceChildren();
    }
  }

  /** @param {string} name @param {Setting} item */
  #row(name, item) {
    let { value } = item;
    const label = element("span", "cnb-clip cnb-setting-name");
    setForeign(label, name.replace(/^.*\./, ""));
    const help = element("span", "cnb-muted", visible([item.help, item.note].filter(Boolean).join(" "), 400));
    const input = element("input", "cnb-input", "", { type: "text", "aria-label": visible(name, 80) });
    input.value = textOf(value);
    const set = element("button", "cnb-button cnb-small", this.t("Set"), { type: "submit" });
    const answer = element("span", "cnb-muted", "", { role: "status" });
    const form = element("form", "cnb-setting", [label, input, set, answer, help]);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const wanted = valueOf(input.value, value);
      if (wanted === null) {
        setText(answer, this.t("not a value like %1", visible(textOf(value), 40)));
        return;
      }
      try {
        value = await this.call("set_config", { item: name, value: wanted });
        input.value = textOf(value);
        setText(answer, this.t("set"));
      } catch (error) {
        setText(answer, visible(error instanceof Error ? error.message : error, 400));
      }
    });
    return form;
  }
}
