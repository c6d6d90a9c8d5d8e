// @ts-check
// The container that JupyterLab loads: what bundlers write for other extensions, by hand. Lab hands over the packages
// that it shares; the plugin is a plain ES module beside this file, so nothing has to be built.
(() => {
  "use strict";
  const NAME = "concurrent-nb";
  const here = /** @type {HTMLScriptElement} */ (document.currentScript).src;
  /** @type {Record<string, Record<string, {get: () => Promise<() => any>}>>} */
  let shared = {};

  /**
   * Give the newest version of a package that this front end shares.
   * @param {string} name
   * @returns {Promise<any>} null if it has none: Notebook 7 and other slim front ends lack some
   */
  async function use(name) {
    const versions = shared[name] ?? {};
    const newest = Object.keys(versions)
      .sort((a, b) => a.localeCompare(b, undefined, { numeric: true }))
      .pop();
    return newest === undefined ? null : (await versions[newest].get())();
  }

  /** @param {string} file */
  function addStyle(file) {
    const href = new URL(file, here).href;
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
  }

  /** @type {Record<string, () => Promise<any>>} */
  const parts = {
    "./extension": async () => {
      const { plugin } = await import(new URL("./lab.js", here).href);
      return { __esModule: true, default: await plugin(use) };
    },
    "./style": async () => {
      for (const file of ["./vendor/uPlot.min.css", "./panels.css", "./lab.css"]) addStyle(file);
      return {};
    },
  };
  /** @type {any} */
  const page = window;
  const home = (page._JUPYTERLAB ??= {});
  home[NAME] = {
    init: (/** @type {typeof shared} */ scope) => {
      shared = scope;
    },
    get: async (/** @type {string} */ part) => {
      const module = await parts[part]();
      return () => module;
    },
  };
})();
