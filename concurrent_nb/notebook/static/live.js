// Updates the pages of a job while it runs.
//
// A page is HTML that the kernel has displayed, with a CSS class that identifies its job; it shows the state of the job
// at that time. This program finds the pages, also those that are displayed later, and inserts the parts that the kernel
// sends. The kernel has escaped all texts of tasks.
//
// A page that is reloaded while a cell runs receives no further outputs of that cell, but it receives new widgets: the
// kernel opens one from time to time, and the newest one of a job replaces the others. A widget that is restored from a
// saved notebook receives no heartbeat, and changes nothing.

const PARTS = ["head", "bars", "errors", "view", "timeline"];
const SILENT_S = 10; // a kernel that is alive sends a heartbeat every two seconds
const LOST_S = 3; // the same, after the front end has reported that the kernel restarts
const ENDING_S = 30; // a kernel that still sends heartbeats so long after that has not been restarted
const jobs = (window.concurrentNbJobs ??= new Map());

export default () => ({
  initialize({ model }) {
    const name = model.get("page_class");
    const first = model.get("tiles"); // the whole picture, if there is one
    const beat = () => {
      const job = jobs.get(name) ?? new Job(name);
      job.follow(model, first);
    };
    const paint = () => jobs.get(name)?.take(model);
    model.on("change:tiles", paint); // before the heartbeat, because the first tiles may arrive with it
    model.on("change:beat", beat);
    model.on("change:last", beat);
    // The front end restarts the kernel, or has lost it, and closes all widgets.
    const lost = () => jobs.get(name)?.lose();
    model.on("comm_live_update", lost);
    return () => {
      model.off("change:tiles", paint);
      model.off("change:beat", beat);
      model.off("change:last", beat);
      model.off("comm_live_update", lost);
      jobs.get(name)?.leave(model);
    };
  },
  render({ model, el }) {
    const page = document.createElement("div");
    page.className = model.get("page_class");
    for (const part of PARTS) page.append(Object.assign(document.createElement("div"), { className: `cnb-${part}` }));
    el.append(page);
    jobs.get(model.get("page_class"))?.update();
  },
});

class Job {
  constructor(name) {
    this.name = name;
    this.model = null;
    this.opened = new Set(); // keys of the elements that the user has opened
    this.picture = null;
    this.shown = new WeakMap(); // page -> the HTML of its parts
    this.lastBeat = 0;
    this.isSilent = false;
    this.lostAt = null; // when the front end has reported that the kernel restarts, or is lost
    this.pages = document.getElementsByClassName(name); // a live collection
    this.observer = new MutationObserver(() => this.update());
    this.observer.observe(document.body, { childList: true, subtree: true });
    this.timer = setInterval(() => this.watch(), 1000);
    jobs.set(name, this);
  }

  follow(model, first) {
    if (this.model !== model) {
      this.model = model;
      this.draw(first, model);
      if (model.get("tiles") !== first) this.take(model);
    }
    this.lastBeat = Date.now();
    this.isSilent = false;
    if (this.lostAt !== null && this.lastBeat - this.lostAt > 1000 * ENDING_S) this.lostAt = null;
    if (model.get("last")) this.end(model.get("last"));
    else this.update();
  }

  // The model is closed; a newer one may have replaced it.
  leave(model) {
    if (this.model !== model) return;
    this.model = null;
    this.lastBeat = Math.min(this.lastBeat, Date.now() - 1000 * (SILENT_S - 3)); // wait 3 s for a newer one, or a beat
  }

  // A kernel that has been told to end may open another widget meanwhile, and even report the end of the job.
  lose() {
    this.model = null;
    if (this.lostAt === null || !this.isSilent) this.lostAt = Date.now(); // what the page already says stays
  }

  end(last) {
    for (const page of [...this.pages]) page.outerHTML = last;
    this.close();
  }

  close() {
    this.observer.disconnect();
    clearInterval(this.timer);
    if (jobs.get(this.name) === this) jobs.delete(this.name);
  }

  update() {
    if (!this.model || this.isSilent) return;
    for (const page of this.pages) {
      const shown = this.shown.get(page) ?? this.shown.set(page, {}).get(page);
      for (const name of PARTS) {
        const html = this.model.get(name);
        const element = page.querySelector(`:scope > .cnb-${name}`);
        if (!element || shown[name] === html) continue;
        shown[name] = html;
        this.put(element, html);
      }
      const [now, elapsed] = [page.querySelector(".cnb-now"), page.querySelector(".cnb-elapsed")];
      if (now && elapsed && now.textContent !== elapsed.textContent) now.textContent = elapsed.textContent; // the same time in both
    }
  }

  // Insert a part; elements that the user has opened or scrolled stay so.
  put(element, html) {
    const scrolled = [...element.querySelectorAll("[data-key]")].map((each) => [each.dataset.key, each.scrollLeft]);
    const canvas = element.querySelector("canvas");
    element.innerHTML = html;
    for (const [key, left] of scrolled) {
      const same = left && element.querySelector(`[data-key="${key}"]`);
      if (same) same.scrollLeft = left;
    }
    for (const details of element.querySelectorAll("details")) {
      details.open = this.opened.has(details.dataset.key);
      details.addEventListener("toggle", () => {
        if (details.open) this.opened.add(details.dataset.key);
        else this.opened.delete(details.dataset.key);
      });
    }
    const frame = element.querySelector(".cnb-frame");
    if (frame) this.frame(frame, canvas ?? document.createElement("canvas"));
  }

  // Report a kernel that is gone.
  watch() {
    const isLost = this.lostAt !== null;
    const silent = (Date.now() - Math.max(this.lastBeat, this.lostAt ?? 0)) / 1000;
    // Before the text changes, because the observer then calls `update`.
    this.isSilent = silent >= (isLost ? LOST_S : SILENT_S);
    for (const page of this.pages) {
      const pace = page.querySelector(".cnb-pace");
      if (!pace || !this.isSilent) continue;
      const words = isLost
        ? "the kernel was restarted, or is gone"
        : `no message from the kernel for ${Math.round(silent)} s`;
      if (pace.textContent !== words) pace.textContent = words;
      page.style.opacity = 0.6;
      this.shown.set(page, {});
    }
    if (!this.isSilent) for (const page of this.pages) page.style.opacity = 1;
  }

  // ---------------------------------------------------------------------------------------------------- the picture

  take(model) {
    if (model === this.model) this.draw(model.get("tiles"), model);
  }

  draw(tiles, model) {
    if (!tiles) return;
    const { width, height } = tiles;
    this.picture ??= document.createElement("canvas");
    if (this.picture.width !== width || this.picture.height !== height) {
      this.picture.width = width; // clears it; the whole picture follows
      this.picture.height = height;
    }
    const context = this.picture.getContext("2d");
    const [bytes, colours] = [bytesOf(tiles.data), bytesOf(model.get("colours"))];
    let at = 0;
    for (const [x, y, w, h] of tiles.rects) {
      const size = w * h * (tiles.colours ? 4 : 1);
      const image = context.createImageData(w, h);
      const part = bytes.subarray(at, at + size);
      if (tiles.colours) image.data.set(part);
      else colour(part, colours, image.data);
      context.putImageData(image, x, y);
      at += size;
    }
    for (const page of this.pages) {
      const frame = page.querySelector(".cnb-frame");
      if (frame) this.frame(frame, frame.querySelector("canvas") ?? document.createElement("canvas"));
    }
  }

  frame(frame, canvas) {
    if (!this.picture) return;
    if (canvas.parentNode !== frame) {
      canvas.className = "cnb-picture";
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", "picture made by the tasks so far");
      canvas.style.cssText = "position:absolute;top:0;left:0;width:100%;height:100%";
      canvas.style.imageRendering = frame.dataset.pixels;
      frame.replaceChildren(canvas);
    }
    if (canvas.width !== this.picture.width || canvas.height !== this.picture.height) {
      canvas.width = this.picture.width;
      canvas.height = this.picture.height;
    }
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(this.picture, 0, 0);
  }
}

function bytesOf(data) {
  if (data instanceof DataView) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  return new Uint8Array(data);
}

function colour(indexes, colours, pixels) {
  for (let at = 0; at < indexes.length; at++) {
    const index = indexes[at];
    pixels[4 * at] = colours[3 * index];
    pixels[4 * at + 1] = colours[3 * index + 1];
    pixels[4 * at + 2] = colours[3 * index + 2];
    pixels[4 * at + 3] = index === 0 ? 0 : 255;
  }
}
