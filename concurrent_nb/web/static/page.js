// @ts-check
// The web page of a cluster: all panels on one page, fed by the master that has served it.

import { Charts } from "./charts.js";
import { MasterConnection } from "./client.js";
import { button, element, plain, setText, throttled } from "./dom.js";
import { FeedModel } from "./feed_model.js";
import { GraphPanel } from "./graph_panel.js";
import { ClusterValues } from "./measured_values.js";
import { EventsPanel, JobDetail, JobsPanel, Overview, SlavesPanel } from "./panels.js";
import { ScaleForm } from "./scale_form.js";
import { SettingsPanel } from "./settings_panel.js";
import { taskActions } from "./task_actions.js";
import { TaskStream } from "./task_stream.js";
import { count, visible } from "./text.js";
import { TraceTools } from "./trace_tools.js";

const t = plain;
const THEME_KEY = "concurrent-nb:theme";
const byId = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** Follow the system's theme, or the one that was chosen here. */
class Theme {
  constructor() {
    this.system = matchMedia("(prefers-color-scheme: dark)");
    this.chosen = "";
    try {
      this.chosen = localStorage.getItem(THEME_KEY) ?? "";
    } catch {
      // Without storage the choice lasts as long as the page.
    }
    this.button = button("", () => this.#choose(this.#isDark() ? "light" : "dark"));
    this.system.addEventListener("change", () => this.#apply());
    this.#apply();
  }

  #isDark() {
    return this.chosen ? this.chosen === "dark" : this.system.matches;
  }

  /** @param {string} theme */
  #choose(theme) {
    this.chosen = theme === (this.system.matches ? "dark" : "light") ? "" : theme;
    try {
      localStorage.setItem(THEME_KEY, this.chosen);
    } catch {
      // As above.
    }
    this.#apply();
  }

  #apply() {
    document.documentElement.dataset.theme = this.#isDark() ? "dark" : "light";
    setText(this.button, this.#isDark() ? t("Light") : t("Dark"));
    this.button.setAttribute("aria-label", this.#isDark() ? t("Use the light theme") : t("Use the dark theme"));
  }
}

/** @param {string} title @param {Node[]} content @param {string} [className] @param {Node[]} [aside] */
function section(title, content, className = "", aside = []) {
  const id = `title-${title.toLowerCase().replace(/\W/g, "-")}`;
  return element(
    "section",
    `panel ${className}`.trim(),
    [element("header", "", [element("h2", "", title, { id }), ...aside]), ...content],
    { "aria-labelledby": id },
  );
}

/** Show a message until it is closed; a few at a time. @param {string} text */
function notify(text) {
  const places = byId("notices");
  const notice = element("div", "cnb-notice notice", [element("span", "", visible(text, 500))]);
  notice.append(button(t("Close"), () => notice.remove(), "cnb-small"));
  places.append(notice);
  while (places.children.length > 3) places.firstChild?.remove();
}

function main() {
  const model = new FeedModel();
  const connection = new MasterConnection();
  const theme = new Theme();

  /**
   * Call a method of the master, and show why it was refused.
   * @param {string} method
   * @param {Record<string, unknown>} params
   */
  const act = async (method, params) => {
    try {
      return await connection.call(method, params);
    } catch (error) {
      notify(error instanceof Error ? error.message : String(error));
      return undefined;
    }
  };
  const actions = {
    cancelJob: (/** @type {import('./feed_model.js').Job} */ job) => void act("cancel_job", { job: job.id }),
    drainSlave: (/** @type {import('./feed_model.js').Slave} */ slave) =>
      void act("drain_slave", { slave: slave.name }),
    restartSlave: (/** @type {import('./feed_model.js').Slave} */ slave) =>
      void act("restart_slave", { slave: slave.name }),
    showJob: (/** @type {import('./feed_model.js').Job} */ job) => show(job.id),
  };
  const overview = new Overview(model);
  const values = new ClusterValues(model, () => connection.call("stats", {}));
  const charts = new Charts(model);
  const stream = new TaskStream(model);
  const jobs = new JobsPanel(model, { actions, most_px: 576 });
  const slaves = new SlavesPanel(model, { actions, most_px: 360 });
  const events = new EventsPanel(model, { most_px: 168 });
  const graph = new GraphPanel(model);
  const graphSection = section(t("Task graph"), [graph.element], "wide", [graph.select]);
  graphSection.hidden = true;
  const detail = new JobDetail(model, {
    actions: { cancelJob: actions.cancelJob },
    statistics: (job) => connection.call("stats", { job: job.id }),
    view: (job, since) => connection.call("job_view", { job: job.id, since }),
    taskActions: taskActions(connection.call.bind(connection)),
  });
  const trace = new TraceTools(connection.call.bind(connection), () => detail.job);
  detail.element.append(trace.element);
  const scale = new ScaleForm(model, (workers) => connection.call("scale", { workers }));
  const settings = new SettingsPanel((method, params) => connection.call(method, params));
  const jobCount = element("span", "cnb-muted");
  const slaveCount = element("span", "cnb-muted");
  const close = button(t("Close"), () => show(""), "cnb-small");
  const detailSection = section(t("Job"), [detail.element], "wide", [close]);
  detailSection.hidden = true;
  byId("main").replaceChildren(
    section(t("Overview"), [overview.element, values.element], "wide"),
    detailSection,
    section(t("Jobs"), [jobs.element], "", [jobCount]),
    element("div", "column", [
      section(t("Slaves"), [scale.element, slaves.element], "", [slaveCount]),
      section(t("Events"), [events.element]),
    ]),
    graphSection,
    section(t("Task stream"), [stream.element], "wide"),
    section(t("Charts"), [charts.element], "wide", [charts.spanSelect]),
    section(t("Settings"), [settings.element], "wide"),
  );

  /** @param {string} id of the job whose detail is shown; '' for none */
  function show(id) {
    detailSection.hidden = !id;
    if (!id) return;
    detail.show(id);
    detailSection.scrollIntoView({ block: "nearest" });
    close.focus({ preventScroll: true });
  }

  const refresh = throttled(() => {
    if (document.hidden) return;
    const name = visible(model.name || "Cluster", 80);
    setText(byId("name"), name);
    if (document.title !== name) document.title = name;
    overview.update();
    values.update();
    jobs.update();
    slaves.update();
    scale.update();
    events.update();
    graphSection.hidden = !model.graphs.size;
    graph.update();
    if (!detailSection.hidden) {
      detail.update();
      trace.update();
    }
    const others = model.totals.other_jobs;
    setText(
      jobCount,
      [count(model.jobs.size), others ? t("%1 of others", count(others)) : ""].filter(Boolean).join(" · "),
    );
    const absent = model.slaves.size - model.joined;
    setText(
      slaveCount,
      [count(model.joined), absent ? t("%1 not joined yet", count(absent)) : ""].filter(Boolean).join(" · "),
    );
  }, 240);
  const refreshCharts = throttled(() => charts.update(), 480);

  const link = byId("link");
  const words = {
    connecting: t("connecting"),
    live: t("live"),
    lost: t("connection lost, trying again"),
    refused: t("not logged in"),
  };
  const watch = () =>
    connection.watch({
      since: () => model.since,
      message: (method, params) => {
        const isFollowing = model.apply(method, params, Date.now() / 1000);
        if (isFollowing) {
          stream.update();
          refresh();
          refreshCharts();
        }
        return isFollowing;
      },
      state: (state, reason) => {
        link.dataset.state = document.body.dataset.state = state;
        setText(link, words[state]);
        link.title = visible(reason, 300);
        if (state === "refused") notify(reason);
      },
    });
  let unwatch = watch();
  document.addEventListener("visibilitychange", () => {
    // Somebody may have logged in meanwhile, in another tab.
    if (!document.hidden && link.dataset.state === "refused") {
      unwatch();
      unwatch = watch();
    }
    refresh();
    refreshCharts();
  });
  const logOut = button(t("Log out"), () => {
    void fetch(new URL("logout", document.baseURI), { method: "POST", credentials: "same-origin" }).finally(() =>
      location.reload(),
    );
  });
  byId("tools").append(theme.button, logOut);
}

main();
