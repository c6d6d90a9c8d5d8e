// @ts-check
// The JupyterLab plugin: a sidebar, panels in the main area, a status item, commands and a launcher card.

import { CellRestorer } from "./cell_restore.js";
import { Charts } from "./charts.js";
import { JupyterClusters } from "./client.js";
import { ClusterSession, connectCell, pathBelow } from "./cluster_session.js";
import { button, element, setForeign, setText, throttled } from "./dom.js";
import { GraphPanel } from "./graph_panel.js";
import { ClusterValues } from "./measured_values.js";
import { EventsPanel, JobDetail, JobsPanel, Overview, SlavesPanel } from "./panels.js";
import { ScaleForm } from "./scale_form.js";
import { taskActions } from "./task_actions.js";
import { TaskStream } from "./task_stream.js";
import { count, visible } from "./text.js";
import { TraceTools } from "./trace_tools.js";

const ID = "concurrent-nb:plugin";
/** how often the list of clusters is asked for: while there is none, and while one is shown */
const [LIST_EVERY_MS, LIST_SELDOM] = [2500, 4];
const ICON =
  '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24"><path class="jp-icon3" fill="#616161"' +
  ' d="M2 3h9v5H2zM13 3h9v5h-9zM2 10h5v5H2zM9 10h13v5H9zM2 17h13v5H2zM17 17h5v5h-5z"/></svg>';
const PANELS = { charts: "Charts", stream: "Task stream", graph: "Task graph", job: "Job" };

/** @typedef {keyof typeof PANELS} PanelKind */
/** @typedef {import("./dom.js").Translate} Translate */
/** @typedef {import("./feed_model.js").Job} Job */
/**
 * @typedef {{session: ClusterSession, t: Translate, run: (command: string, args?: Record<string, unknown>) => void,
 *   settings: {chartMinutes: number, startWorkers: number}}} Context
 */

/** Something of a cluster in Lab: watches while it is visible, and is made anew for another cluster. */
class ClusterView {
  /** @param {Context} context @param {string} className */
  constructor(context, className) {
    this.context = context;
    this.link = element("span", "cnb-lab-link", "", { role: "status" });
    this.body = element("div", "cnb-body");
    this.node = element("div", `cnb cnb-lab ${className}`);
    /** @type {{update: () => void, dispose?: () => void}[]} */
    this.parts = [];
    this.isVisible = false;
    this.refresh = throttled(() => this.isVisible && this.parts.forEach((part) => part.update()), 240);
    const { session } = context;
    this.listeners = { chosen: () => this.#rebuild(), changed: () => this.showLink(), message: this.refresh };
    session.onChosen.add(this.listeners.chosen);
    session.onChanged.add(this.listeners.changed);
    session.onMessage.add(this.listeners.message);
  }

  /** Make the parts for the cluster that is chosen now; each kind of view has its own. */
  build() {}

  begin() {
    this.#rebuild();
    this.showLink();
  }

  #rebuild() {
    this.parts.forEach((part) => part.dispose?.());
    this.parts = [];
    this.body.replaceChildren();
    this.build();
    this.refresh();
  }

  showLink() {
    const { session, t } = this.context;
    const words = {
      idle: t("not watched"),
      connecting: t("connecting"),
      live: t("live"),
      lost: t("connection lost, trying again"),
      refused: t("refused"),
    };
    this.link.dataset.state = session.state;
    this.link.hidden = !session.chosen;
    setText(this.link, words[session.state]);
    this.link.title = visible(session.reason, 300);
    this.node.classList.toggle("is-lost", session.state === "lost");
  }

  /** @param {boolean} isVisible */
  setVisible(isVisible) {
    if (isVisible === this.isVisible) return;
    this.isVisible = isVisible;
    this.context.session.want(this, isVisible);
    if (isVisible) this.refresh();
  }

  dispose() {
    this.setVisible(false);
    const { session } = this.context;
    session.onChosen.delete(this.listeners.chosen);
    session.onChanged.delete(this.listeners.changed);
    session.onMessage.delete(this.listeners.message);
    this.refresh.cancel();
    this.parts.forEach((part) => part.dispose?.());
  }
}

/** @param {Context} context */
function jobActions({ run }) {
  return {
    cancelJob: (/** @type {Job} */ job) => run("concurrent-nb:cancel-job", { job: job.id }),
    goToCell: (/** @type {Job} */ job) => run("concurrent-nb:go-to-cell", { notebook: job.notebook, cell: job.cell }),
    showJob: (/** @type {Job} */ job) => run("concurrent-nb:open-panel", { panel: "job", job: job.id }),
  };
}

class Sidebar extends ClusterView {
  /** @param {Context} context */
  constructor(context) {
    super(context, "cnb-lab-sidebar");
    const { t, run, session } = context;
    this.name = element("input", "cnb-input", "", {
      type: "text",
      maxlength: "64",
      placeholder: t("name"),
      "aria-label": t("Name of the new cluster"),
    });
    this.workers = element("input", "cnb-input", "", {
      type: "number",
      min: "0",
      max: "1000",
      placeholder: t("cores"),
      "aria-label": t("Workers; empty for one for each core"),
    });
    const start = element("button", "cnb-button cnb-primary", t("Start"), { type: "submit" });
    const form = element("form", "cnb-start", [this.name, this.workers, start], { "aria-label": t("Start a cluster") });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      run("concurrent-nb:start-cluster", {
        name: this.name.value.trim() || freeName(session.list.map((one) => one.name)),
        workers: Number(this.workers.value) || context.settings.startWorkers,
      });
      this.name.value = this.workers.value = "";
    });
    this.problem = element("p", "cnb-notice is-mild");
    this.clusters = element("ul", "cnb-clusters", "", { "aria-label": t("Clusters") });
    const reload = button("↻", () => void session.refresh(), "cnb-small", t("Look for clusters again"));
    reload.setAttribute("aria-label", t("Look for clusters again"));
    const head = element("header", "", [element("h2", "", t("Clusters")), element("span", "cnb-actions", [reload])]);
    this.node.append(element("section", "", [head, this.problem, this.clusters, form]), this.body);
    this.begin();
  }

  build() {
    const { context } = this;
    const { t, session, run } = context;
    if (!session.chosen) return;
    const options = { translate: t, actions: jobActions(context) };
    const overview = new Overview(session.model, options);
    const jobs = new JobsPanel(session.model, { ...options, row_px: 100, most_px: 500 });
    const slaves = new SlavesPanel(session.model, {
      translate: t,
      actions: {
        drainSlave: (slave) => run("concurrent-nb:drain-slave", { slave: slave.name }),
        restartSlave: (slave) => run("concurrent-nb:restart-slave", { slave: slave.name }),
      },
      row_px: 112,
      most_px: 336,
    });
    const scale = new ScaleForm(session.model, (workers) => session.call("scale", { workers }), t);
    const events = new EventsPanel(session.model, { translate: t, row_px: 62, most_px: 310 });
    const open = (/** @type {PanelKind} */ panel) =>
      button(t(PANELS[panel]), () => run("concurrent-nb:open-panel", { panel }), "cnb-small");
    const section = (/** @type {string} */ title, /** @type {Node} */ content, /** @type {Node[]} */ aside = []) =>
      element("section", "", [element("header", "", [element("h2", "", title), ...aside]), content]);
    const title = element("h2", "cnb-visually-hidden", t("Overview"));
    const graph = open("graph"); // there only while tasks need results of others
    const update = () => {
      graph.hidden = !session.model.graphs.size;
    };
    this.body.append(
      element("section", "", [
        element("header", "", [
          title,
          this.link,
          element("span", "cnb-actions", [open("charts"), open("stream"), graph]),
        ]),
        overview.element,
      ]),
      section(t("Jobs"), jobs.element),
      section(t("Slaves"), element("div", "", [scale.element, slaves.element])),
      section(t("Events"), events.element),
    );
    this.parts = [overview, jobs, slaves, scale, events, { update }];
  }

  showLink() {
    super.showLink();
    const { session, t } = this.context;
    this.problem.hidden = !session.problem;
    setText(this.problem, visible(session.problem, 400));
    const rows = session.list.map((cluster) => this.#clusterRow(cluster));
    const state = JSON.stringify([session.list, session.chosen]);
    if (this.clusters.dataset.state === state) return;
    this.clusters.dataset.state = state;
    this.clusters.replaceChildren(
      ...(rows.length ? rows : [element("li", "cnb-muted", t("No cluster on this machine. Start one:"))]),
    );
  }

  /** @param {import("./client.js").LocalCluster} cluster */
  #clusterRow({ name, host, isAlive, isEmbedded }) {
    const { session, t, run } = this.context;
    const isChosen = name === session.chosen;
    const choose = button("", () => session.choose(name), "cnb-link cnb-clip");
    setText(choose, shortName(name));
    choose.title = visible(name, 200);
    choose.setAttribute("aria-pressed", String(isChosen));
    const where = element("span", "cnb-muted cnb-clip");
    setForeign(where, isAlive ? (isEmbedded ? t("notebook") : host) : t("does not answer"));
    const buttons = [
      button(
        t("Connect cell"),
        () => run("concurrent-nb:insert-connect", { name }),
        "cnb-small",
        t("Insert a cell that connects the notebook to this cluster"),
      ),
      button(t("Stop"), () => run("concurrent-nb:stop-cluster", { name }), "cnb-small cnb-cancel"),
    ];
    return element("li", `cnb-cluster ${isChosen ? "is-chosen" : ""}`.trim(), [
      element("div", "cnb-cluster-head", [choose, where]),
      element("div", "cnb-actions", isEmbedded ? [] : buttons),
    ]);
  }
}

class MainPanel extends ClusterView {
  /** @param {Context} context @param {PanelKind} kind */
  constructor(context, kind) {
    super(context, "cnb-lab-main");
    this.kind = kind;
    this.job = "";
    this.name = element("h2", "cnb-clip");
    this.head = element("header");
    this.node.append(this.head, this.body);
    this.begin();
  }

  build() {
    const { session, t, settings } = this.context;
    setText(this.name, session.chosen ? shortName(session.chosen) : t("No cluster"));
    const aside = [];
    if (!session.chosen) {
      this.body.append(element("p", "cnb-muted", t("Choose or start a cluster in the sidebar.")));
    } else if (this.kind === "charts") {
      const charts = new Charts(session.model, { translate: t, minutes: settings.chartMinutes });
      const values = new ClusterValues(session.model, () => session.call("stats", {}), t);
      aside.push(charts.spanSelect);
      this.body.append(charts.element, values.element);
      this.parts = [charts, values];
    } else if (this.kind === "stream") {
      const stream = new TaskStream(session.model, { translate: t, height: 480 });
      this.body.append(stream.element);
      this.parts = [stream];
    } else if (this.kind === "graph") {
      const graph = new GraphPanel(session.model, { translate: t });
      aside.push(graph.select);
      this.body.append(graph.element);
      this.parts = [graph];
    } else {
      const detail = new JobDetail(session.model, {
        translate: t,
        actions: jobActions(this.context),
        statistics: (job) => session.call("stats", { job: job.id }),
        view: (job, since) => session.call("job_view", { job: job.id, since }),
        taskActions: taskActions(session.call.bind(session), t),
      });
      const trace = new TraceTools(session.call.bind(session), () => detail.job, t);
      detail.element.append(trace.element);
      detail.show(this.job);
      this.detail = detail;
      this.body.append(detail.element);
      this.parts = [detail, trace];
    }
    this.head.replaceChildren(this.name, this.link, ...aside);
  }

  /** @param {string} job */
  show(job) {
    this.job = job;
    this.detail?.show(job);
  }
}

/** @param {string} name of a cluster @returns {string} without the random part that embedded ones have */
function shortName(name) {
  return visible(name.replace(/^(embedded-\d+)-[0-9a-f]+$/, "$1"), 32);
}

/** @param {string[]} taken @returns {string} */
function freeName(taken) {
  for (let number = 1; ; number += 1) {
    const name = number === 1 ? "lab" : `lab${number}`;
    if (!taken.includes(name)) return name;
  }
}

/**
 * Make the plugin of packages that the front end shares; what it lacks is left out.
 * @param {(name: string) => Promise<any>} use
 */
export async function plugin(use) {
  const names = [
    "application",
    "apputils",
    "coreutils",
    "launcher",
    "notebook",
    "services",
    "settingregistry",
    "statusbar",
    "translation",
    "ui-components",
  ];
  const found = await Promise.all([...names.map((name) => use(`@jupyterlab/${name}`)), use("@lumino/widgets")]);
  const lab = Object.fromEntries([...names, "widgets"].map((name, at) => [name, found[at]]));
  /** @type {Record<string, any>} */
  const wanted = {
    translator: lab.translation?.ITranslator,
    notebooks: lab.notebook?.INotebookTracker,
    palette: lab.apputils?.ICommandPalette,
    launcher: lab.launcher?.ILauncher,
    statusBar: lab.statusbar?.IStatusBar,
    registry: lab.settingregistry?.ISettingRegistry,
    labShell: lab.application?.ILabShell,
    restorer: lab.application?.ILayoutRestorer,
  };
  const services = Object.entries(wanted).filter(([, token]) => token);
  return {
    id: ID,
    description: "Clusters of concurrent_nb: slaves, jobs, charts and a task stream.",
    autoStart: true,
    optional: services.map(([, token]) => token),
    activate: (/** @type {any} */ app, /** @type {any[]} */ ...given) =>
      activate(app, lab, Object.fromEntries(services.map(([name], at) => [name, given[at]]))),
  };
}

/**
 * @param {any} app
 * @param {Record<string, any>} lab packages
 * @param {Record<string, any>} has services, each of which may be missing
 */
async function activate(app, lab, has) {
  const trans = has.translator?.load("concurrent_nb");
  /** @type {Translate} */
  const t = (text, ...values) =>
    trans ? trans.__(text, ...values.map(String)) : text.replace(/%(\d)/g, (_, at) => String(values[at - 1] ?? ""));
  const settings = { watchAlways: false, startWorkers: 0, chartMinutes: 5 };
  const session = new ClusterSession(new JupyterClusters(lab.services, app.serviceManager.serverSettings));
  const icon = new lab["ui-components"].LabIcon({ name: "concurrent-nb:cluster", svgstr: ICON });
  const { commands, shell } = app;
  const run = (/** @type {string} */ command, args = {}) => void commands.execute(command, args).catch(report);
  /** @type {Context} */
  const context = { session, t, run, settings };

  /** @param {unknown} error */
  function report(error) {
    const text = visible(error instanceof Error ? error.message : String(error), 500);
    if (lab.apputils.Notification) lab.apputils.Notification.error(text, { autoClose: 10_000 });
    else void lab.apputils.showErrorMessage(t("Cluster"), text);
  }

  /** A widget around a view, which watches only while it is visible. */
  class ViewWidget extends lab.widgets.Widget {
    /** @param {ClusterView} view @param {string} id @param {string} title */
    constructor(view, id, title) {
      super({ node: view.node });
      this.view = view;
      this.id = id;
      this.title.icon = icon;
      this.node.setAttribute("role", "region");
      this.node.setAttribute("aria-label", title);
    }

    onAfterShow() {
      this.view.setVisible(true);
    }

    onAfterAttach() {
      this.view.setVisible(this.isVisible);
    }

    onBeforeHide() {
      this.view.setVisible(false);
    }

    onBeforeDetach() {
      this.view.setVisible(false);
    }

    dispose() {
      if (this.isDisposed) return;
      this.view.dispose();
      super.dispose();
    }
  }

  const sidebar = new ViewWidget(new Sidebar(context), "concurrent-nb-clusters", t("Clusters"));
  sidebar.title.caption = t("Clusters");
  shell.add(sidebar, "left", { rank: 650, type: "Clusters" });
  has.restorer?.add(sidebar, sidebar.id);

  const panels = new lab.apputils.WidgetTracker({ namespace: "concurrent-nb" });
  /** @param {PanelKind} kind */
  function openPanel(kind) {
    let widget = panels.find((/** @type {any} */ one) => one.view.kind === kind);
    if (!widget) {
      widget = new ViewWidget(new MainPanel(context, kind), `concurrent-nb-${kind}`, t(PANELS[kind]));
      widget.title.label = t(PANELS[kind]);
      widget.title.closable = true;
      // Notebook 7 has room for one document; there the panels are at its right.
      const beside = panels.find((/** @type {any} */ one) => one.isAttached);
      const place = beside ? { mode: "tab-after", ref: beside.id } : { mode: "split-right" };
      shell.add(widget, has.labShell ? "main" : "right", place);
      void panels.add(widget);
    }
    shell.activateById(widget.id);
    return widget;
  }

  const text = { type: "string" };
  const args = (/** @type {Record<string, unknown>} */ properties) => ({ args: { type: "object", properties } });
  /** @param {string} name @param {string} label @param {any} more */
  const add = (name, label, more) => {
    commands.addCommand(`concurrent-nb:${name}`, { label, icon, ...more });
    return `concurrent-nb:${name}`;
  };
  const open = add("open", t("Show clusters"), {
    describedBy: args({}),
    execute: () => shell.activateById(sidebar.id),
  });
  const openPanelCommand = add("open-panel", "", {
    label: (/** @type {any} */ { panel }) => t("Cluster: %1", t(PANELS[/** @type {PanelKind} */ (panel)] ?? "Panel")),
    describedBy: args({ panel: { enum: Object.keys(PANELS) }, job: text }),
    execute: (/** @type {any} */ { panel, job }) => {
      if (!(panel in PANELS)) return;
      const { view } = openPanel(panel);
      if (job) view.show(job);
    },
  });
  const start = add("start-cluster", t("Start a cluster"), {
    describedBy: args({ name: text, workers: { type: "integer" } }),
    execute: async (/** @type {any} */ { name, workers }) => {
      const chosen = name || freeName(session.list.map((one) => one.name));
      await session.clusters.start(chosen, workers ?? settings.startWorkers).catch(report);
      await session.refresh();
      if (session.list.some((one) => one.name === chosen)) session.choose(chosen);
      shell.activateById(sidebar.id);
    },
  });
  add("stop-cluster", t("Stop the cluster"), {
    describedBy: args({ name: text }),
    execute: async (/** @type {any} */ { name }) => {
      const which = name || session.chosen;
      if (
        !which ||
        !(await confirm(
          t("Stop cluster %1?", visible(which, 60)),
          t("Its jobs end, and their results that nobody has fetched are lost."),
          t("Stop"),
        ))
      ) {
        return;
      }
      await session.clusters.stop(which).catch(report);
      if (which === session.chosen) session.choose("");
      await session.refresh();
    },
  });
  add("insert-connect", t("Insert the cell that connects to the cluster"), {
    describedBy: args({ name: text }),
    isEnabled: () => Boolean(has.notebooks?.currentWidget),
    execute: (/** @type {any} */ { name }) => {
      const notebook = has.notebooks?.currentWidget?.content;
      if (!notebook) throw new Error(t("open a notebook first: the cell is inserted there"));
      lab.notebook.NotebookActions.insertBelow(notebook);
      notebook.activeCell.model.sharedModel.setSource(connectCell(name || session.chosen));
    },
  });
  add("cancel-job", t("Cancel a job"), {
    describedBy: args({ job: text }),
    execute: (/** @type {any} */ { job }) => session.call("cancel_job", { job }).catch(report),
  });
  add("drain-slave", t("Drain a slave"), {
    describedBy: args({ slave: text }),
    execute: async (/** @type {any} */ { slave }) => {
      if (
        !(await confirm(
          t("Drain %1?", visible(slave, 60)),
          t("It gets no new tasks, and ends when its own have ended."),
          t("Drain"),
        ))
      ) {
        return;
      }
      await session.call("drain_slave", { slave }).catch(report);
    },
  });
  add("restart-slave", t("Restart a slave"), {
    describedBy: args({ slave: text }),
    execute: (/** @type {any} */ { slave }) => session.call("restart_slave", { slave }).catch(report),
  });
  add("go-to-cell", t("Show the cell of a job"), {
    describedBy: args({ notebook: text, cell: text }),
    execute: (/** @type {any} */ { notebook, cell }) => goToCell(notebook, cell),
  });

  /** @param {string} title @param {string} body @param {string} label */
  async function confirm(title, body, label) {
    const { Dialog, showDialog } = lab.apputils;
    const buttons = [Dialog.cancelButton(), Dialog.warnButton({ label })];
    return (await showDialog({ title, body, buttons })).button.accept;
  }

  /** @param {string} path @param {string} id */
  async function goToCell(path, id) {
    const cellOf = (/** @type {any} */ panel) =>
      panel?.content?.widgets?.find((/** @type {any} */ cell) => cell.model.id === id);
    // A notebook that is open is found by its cell, whatever its path is for the kernel.
    let panel = has.notebooks?.find((/** @type {any} */ one) => Boolean(cellOf(one)));
    if (panel) shell.activateById(panel.id);
    else {
      const root = lab.coreutils.PageConfig.getOption("serverRoot");
      panel = await commands.execute("docmanager:open", { path: pathBelow(path, root) });
      await panel?.context?.ready;
      await panel?.revealed;
    }
    const cell = cellOf(panel);
    if (!cell) throw new Error(t("the notebook %1 has no such cell any more", visible(path, 200)));
    panel.content.activeCellIndex = panel.content.widgets.indexOf(cell);
    await panel.content.scrollToCell(cell, "center");
  }

  if (has.notebooks) {
    const restorer = new CellRestorer({
      clusters: session.clusters,
      root: lab.coreutils.PageConfig.getOption("serverRoot"),
      translate: t,
      sanitize: (html) => new lab.apputils.Sanitizer().sanitize(html),
    });
    const restore = (/** @type {any} */ panel) => void restorer.open(panel);
    has.notebooks.forEach(restore);
    has.notebooks.widgetAdded.connect((/** @type {any} */ _, /** @type {any} */ panel) => restore(panel));
    const { executionScheduled, outputCleared } = lab.notebook.NotebookActions;
    const claim = (/** @type {any} */ _, /** @type {any} */ { cell }) => restorer.claim(cell.model);
    executionScheduled.connect(claim);
    outputCleared?.connect(claim);
  }

  const category = t("Clusters");
  for (const command of [open, start, "concurrent-nb:stop-cluster", "concurrent-nb:insert-connect"]) {
    has.palette?.addItem({ command, category });
  }
  for (const panel of Object.keys(PANELS)) {
    has.palette?.addItem({ command: openPanelCommand, category, args: { panel } });
  }
  has.launcher?.add({ command: open, category: t("Other"), rank: 20 });
  void has.restorer?.restore(panels, {
    command: openPanelCommand,
    args: (/** @type {any} */ { view }) => ({ panel: view.kind, job: view.job }),
    name: (/** @type {any} */ { view }) => view.kind,
  });

  if (has.statusBar) {
    const status = element("button", "cnb-status", "", { type: "button", title: t("Show clusters") });
    status.addEventListener("click", () => run(open));
    const show = throttled(() => {
      const { totals } = session.model;
      const live = session.state === "live";
      const name = shortName(session.chosen);
      setText(
        status,
        live ? t("%1: %2 of %3 busy, %4 waiting", name, totals.busy, totals.slots, count(totals.waiting)) : name,
      );
    }, 500);
    session.onMessage.add(show);
    session.onChanged.add(show);
    const item = new lab.widgets.Widget({ node: element("div", "", [status]) });
    has.statusBar.registerStatusItem("concurrent-nb:status", { item, align: "left", rank: 10 });
  }

  if (has.registry) {
    try {
      const loaded = await has.registry.load(ID);
      const read = () => {
        for (const name of /** @type {(keyof typeof settings)[]} */ (Object.keys(settings))) {
          Object.assign(settings, { [name]: loaded.get(name).composite ?? settings[name] });
        }
        session.want("settings", settings.watchAlways);
      };
      loaded.changed.connect(read);
      read();
    } catch (error) {
      report(error);
    }
  }
  // A list that nobody looks at is not asked for.
  let turns = 0;
  setInterval(() => {
    turns += 1;
    const isDue = session.state !== "live" || turns % LIST_SELDOM === 0;
    const isWanted = sidebar.isVisible || panels.size > 0 || settings.watchAlways;
    if (!document.hidden && isDue && isWanted) void session.refresh();
  }, LIST_EVERY_MS);
  void session.refresh();
}
