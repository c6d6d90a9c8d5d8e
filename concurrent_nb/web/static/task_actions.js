// @ts-check
// What can be done with a running task: buttons of the list of running tasks.

import { plain } from "./dom.js";
import { duration, finite } from "./text.js";

/** @typedef {(method: string, params: Record<string, unknown>) => Promise<any>} Call a method of the master */

/**
 * @param {Call} call @param {import('./dom.js').Translate} [t]
 * @returns {{label: string, title: string,
 *   run: (job: import('./feed_model.js').Job, index: number) => Promise<string | void>}[]}
 *   `run` gives a text to show, which may contain anything, and rejects if the master refuses
 */
export function taskActions(call, t = plain) {
  return [
    {
      label: t("Stack"),
      title: t("Show where the task is now: the lines of its functions"),
      run: async ({ id }, index) => {
        const { slave, worker, seconds, stack } = await call("stack_sample", { job: id, index });
        return `${t("slave %1, process %2, after %3", String(slave), worker, duration(finite(seconds)))}\n${String(stack)}`;
      },
    },
    {
      label: t("Cancel"),
      title: t("Cancel this task only; it is stopped"),
      run: async ({ id }, index) => {
        await call("cancel_task", { job: id, index });
      },
    },
  ];
}
