// The live view of a job in the browser. It shows what the kernel tells, and tells nothing back.
//
// Whatever a task said arrives as text and goes into the page as text (textContent), never as markup.

const SVG = "http://www.w3.org/2000/svg";
const [WAITING, RUNNING, DONE, FAILED, CANCELLED, HIT] = [0, 1, 2, 3, 4, 5];
const WORDS = ["waiting", "running", "done", "failed", "cancelled", "hit"];
const ROW = 7; // height of a row of a lane

export default () => {
  // One call for each model: this is what its views share.
  let picture = null;
  const painters = new Set();

  function take(tiles, colours) {
    if (!tiles) return;
    const { width, height } = tiles;
    if (!picture) picture = document.createElement("canvas");
    if (picture.width !== width || picture.height !== height) {
      picture.width = width; // clears it, and what comes next is the whole picture
      picture.height = height;
    }
    const context = picture.getContext("2d");
    const bytes = bytesOf(tiles.data);
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
    for (const paint of painters) paint();
  }

  return {
    initialize({ model }) {
      const colours = bytesOf(model.get("colours"));
      take(model.get("tiles"), colours);
      const changed = () => take(model.get("tiles"), colours);
      model.on("change:tiles", changed);
      return () => model.off("change:tiles", changed);
    },
    render({ model, el }) {
      const root = node("div", "concurrent-nb", el);
      root.setAttribute("role", "group");
      root.setAttribute("aria-label", "progress of a job");
      const states = model.get("states");
      states.forEach((value, state) => root.style.setProperty(`--cnb-${WORDS[state]}`, value));
      const shows = {
        head: showHead(node("div", "cnb-head", root)),
        bars: showBars(node("div", "cnb-bars", root)),
        errors: showErrors(node("div", "cnb-errors", root)),
        view: showView(node("div", "cnb-view", root), model, () => picture, painters),
        lanes: showLanes(node("div", "cnb-lanes", root), root),
      };
      const leave = [];
      for (const [name, show] of Object.entries(shows)) {
        const changed = () => {
          const part = model.get(name);
          if (part) show.update(part);
        };
        changed();
        model.on(`change:${name}`, changed);
        leave.push(() => model.off(`change:${name}`, changed));
      }
      return () => {
        for (const part of leave) part();
        for (const show of Object.values(shows)) show.leave?.();
      };
    },
  };
};

// ----------------------------------------------------------------------------------------------------------- numbers

function showHead(place) {
  const line = node("div", "cnb-line", place);
  const counts = node("span", "cnb-counts", line);
  const name = node("bdi", "cnb-name", counts);
  const pace = node("span", "cnb-pace", line);
  const bar = node("div", "cnb-bar", place);
  bar.setAttribute("role", "progressbar");
  bar.setAttribute("aria-valuemin", "0");
  const pieces = [DONE, FAILED, CANCELLED, RUNNING].map((state) => [state, node("span", `cnb-${WORDS[state]}`, bar)]);
  const fields = [
    "done",
    "running",
    "waiting",
    "failed",
    "cancelled",
  ].map((state) => {
    const field = node("span", `cnb-count cnb-is-${state}`, counts);
    node("span", `cnb-dot cnb-${state}`, field);
    const number = node("b", "", field);
    field.append(` ${state}`);
    return [state, number, field];
  });
  return {
    update(head) {
      setText(name, head.name);
      name.hidden = !head.name;
      for (const [state, number, field] of fields) {
        const count = head[state];
        const of = state === "done" ? ` of ${head.total.toLocaleString()}` : "";
        setText(number, head.total === 1 ? "" : `${count.toLocaleString()}${of}`);
        field.hidden = !count && (head.total === 1 || state !== "done");
      }
      bar.hidden = head.total === 1;
      const parts = [];
      if (head.rate !== null && head.total > 1) parts.push(`${rate(head.rate)}/s`);
      if (head.left !== null && head.total > 1 && head.waiting + head.running > 0) parts.push(`${seconds(head.left)} left`);
      parts.push(seconds(head.elapsed));
      setText(pace, parts.join(" · "));
      for (const [state, piece] of pieces) {
        piece.style.width = `${(100 * head[WORDS[state]]) / Math.max(1, head.total)}%`;
      }
      bar.setAttribute("aria-valuemax", head.total);
      bar.setAttribute("aria-valuenow", head.done + head.failed + head.cancelled);
    },
  };
}

// ------------------------------------------------------------------------------------------------- the tasks' own bars

function showBars(place) {
  const rows = new Map();
  const more = node("div", "cnb-more", place);
  let most = 0;
  return {
    update(part) {
      if (part.bars.length > most) {
        most = part.bars.length; // as tasks come and go, what is below stays where it is
        place.style.minHeight = `${1.5 * most}em`;
      }
      const wanted = new Set(part.bars.map(([task]) => task));
      for (const [task, row] of rows) {
        if (!wanted.has(task)) {
          row.whole.remove();
          rows.delete(task);
        }
      }
      for (const [task, fraction, said] of part.bars) {
        let row = rows.get(task);
        if (!row) {
          const whole = node("div", part.single ? "cnb-own cnb-single" : "cnb-own", null);
          place.insertBefore(whole, more);
          setText(node("span", "cnb-task", whole), part.single || (part.word === "phase" && !task) ? "" : `${part.word} ${task}`);
          const track = node("span", "cnb-track", whole);
          row = { whole, track, fill: node("span", "cnb-running", track), said: node("bdi", "cnb-said", whole) };
          rows.set(task, row);
        }
        row.track.classList.toggle("cnb-unknown", fraction === null);
        row.fill.style.width = fraction === null ? "100%" : `${100 * fraction}%`;
        setText(row.said, fraction === null ? said : `${Math.round(100 * fraction)} %  ${said}`);
      }
      setText(more, part.more ? `and ${part.more} more that report` : "");
    },
  };
}

// ------------------------------------------------------------------------------------------------------------- errors

function showErrors(place) {
  const folds = [];
  const more = node("div", "cnb-more", place);
  return {
    update(part) {
      part.kinds.forEach((kind, number) => {
        let fold = folds[number];
        if (!fold) {
          const details = node("details", "cnb-error", null);
          place.insertBefore(details, more);
          const summary = node("summary", "", details);
          setText(node("b", "", summary), kind.type);
          setText(node("bdi", "", summary), kind.message ? `: ${kind.message}` : "");
          fold = folds[number] = { tasks: node("span", "cnb-muted", summary) };
          setText(node("pre", "", details), kind.text);
        }
        setText(fold.tasks, ` ${tasksOf(kind)}`);
      });
      setText(more, part.more ? `and ${part.more} more errors of other kinds` : "");
    },
  };
}

function tasksOf(kind) {
  const named = kind.tasks.join(", ");
  if (kind.count === 1) return `task ${named}`;
  return `${kind.count.toLocaleString()} times: tasks ${named}${kind.count > kind.tasks.length ? ", …" : ""}`;
}

// -------------------------------------------------------------------------------------------------------------- lanes

function showLanes(place, root) {
  const lanes = new Map();
  const axis = node("div", "cnb-axis", place);
  setText(node("span", "", axis), "0 s");
  const end = node("span", "", axis);
  const more = node("div", "cnb-more", place);
  let last = null;
  const sized = new ResizeObserver(() => last && draw(last));
  sized.observe(place);

  function draw(part) {
    place.hidden = part.slaves.length === 0 || part.single;
    for (const slave of part.slaves) {
      let lane = lanes.get(slave.name);
      if (!lane) {
        const whole = node("div", "cnb-lane", null);
        place.insertBefore(whole, axis);
        const label = node("div", "cnb-label", whole);
        setText(node("bdi", "", label), slave.name);
        lane = { whole, tasks: node("span", "cnb-muted", label), canvas: node("canvas", "", whole) };
        lane.canvas.setAttribute("role", "img");
        lanes.set(slave.name, lane);
      }
      const failed = slave.failed ? `, ${slave.failed.toLocaleString()} failed` : "";
      const said = slave.tasks ? `${slave.tasks.toLocaleString()} ${slave.tasks === 1 ? "task" : "tasks"}${failed}` : "";
      setText(lane.tasks, said);
      lane.canvas.setAttribute("aria-label", `timeline of ${slave.name}: ${said}`);
      drawLane(lane.canvas, slave.rows, part, getComputedStyle(root));
    }
    for (const [name, lane] of lanes) {
      if (!part.slaves.some((slave) => slave.name === name)) {
        lane.whole.remove();
        lanes.delete(name);
      }
    }
    setText(end, seconds(part.now));
    setText(more, part.more ? `and ${part.more} more slaves` : "");
  }

  place.hidden = true;
  return {
    update(part) {
      last = part;
      draw(part);
    },
    leave: () => sized.disconnect(),
  };
}

function drawLane(canvas, rows, part, style) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth || 400;
  const height = Math.max(1, rows.length) * ROW;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const colours = WORDS.map((word) => style.getPropertyValue(`--cnb-${word}`));
  const perSecond = width / Math.max(part.now, 1e-9);
  rows.forEach((row, number) => {
    const y = number * ROW;
    context.fillStyle = colours[WAITING];
    context.globalAlpha = 0.15;
    context.fillRect(0, y, width, ROW - 1);
    context.globalAlpha = 1;
    if (part.bin) {
      for (let bin = 0; bin < row.length; bin++) {
        if (row[bin] === "0") continue;
        context.fillStyle = colours[row[bin] === "x" ? FAILED : DONE];
        context.globalAlpha = row[bin] === "x" ? 1 : Number(row[bin]) / 8;
        const x = bin * part.bin * perSecond;
        context.fillRect(x, y, Math.min(part.bin * perSecond, width - x), ROW - 1);
      }
      context.globalAlpha = 1;
      return;
    }
    for (const [from, to, state] of row) {
      const wide = (to - from) * perSecond;
      context.fillStyle = colours[state];
      context.fillRect(from * perSecond, y, Math.max(1, wide > 3 ? wide - 1 : wide), ROW - 1);
    }
  });
}

// -------------------------------------------------------------------------------------------------------------- views

function showView(place, model, pictureOf, painters) {
  let shown = null;
  const make = { image: showImage, search: showSearch, table: showTable };
  return {
    update(part) {
      shown = shown || make[part.kind](place, model, pictureOf, painters);
      shown.update(part);
    },
    leave: () => shown?.leave?.(),
  };
}

function showImage(place, model, pictureOf, painters) {
  const frame = node("div", "cnb-frame", place);
  const canvas = node("canvas", "cnb-picture", frame);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "picture made by the tasks so far");
  const caption = node("div", "cnb-caption cnb-muted", place);
  const size = node("span", "", caption);
  const low = node("span", "", caption);
  const ramp = node("canvas", "cnb-ramp", caption);
  const high = node("span", "", caption);
  const odd = node("bdi", "cnb-more", place);
  drawRamp(ramp, bytesOf(model.get("colours")));
  let waits = false;

  function paint() {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      const picture = pictureOf();
      if (!picture) return;
      if (canvas.width !== picture.width || canvas.height !== picture.height) {
        canvas.width = picture.width;
        canvas.height = picture.height;
      }
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, canvas.width, canvas.height);
      context.drawImage(picture, 0, 0);
    });
  }
  painters.add(paint);
  paint();
  return {
    update(part) {
      if (part.width) {
        const wide = Math.max(part.width, Math.min(384, (384 * part.width) / part.height));
        frame.style.width = `min(100%, ${wide}px)`;
        frame.style.aspectRatio = `${part.width} / ${part.height}`;
        canvas.style.imageRendering = part.width < 384 ? "pixelated" : "auto";
      }
      const thinned = part.step > 1 ? `, shown at 1:${part.step}` : "";
      setText(size, part.width ? `${part.width} × ${part.height}${thinned}` : "waiting for the first pixels");
      ramp.hidden = low.hidden = high.hidden = part.range.length === 0;
      setText(low, part.range[0] ?? "");
      setText(high, part.range[1] ?? "");
      setText(odd, part.odd ? `${part.odd} not drawn; ${part.first_odd}` : "");
    },
    leave: () => painters.delete(paint),
  };
}

function drawRamp(canvas, colours) {
  canvas.width = 255;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  const image = context.createImageData(255, 1);
  colour(Uint8Array.from({ length: 255 }, (_, at) => at + 1), colours, image.data);
  context.putImageData(image, 0, 0);
}

function showSearch(place) {
  const strip = document.createElementNS(SVG, "svg");
  strip.classList.add("cnb-strip");
  strip.setAttribute("preserveAspectRatio", "none");
  strip.setAttribute("role", "img");
  place.append(strip);
  const marks = node("div", "cnb-marks", place);
  const mark = node("span", "cnb-mark", marks);
  setText(mark, "▲");
  const ends = node("div", "cnb-axis", place);
  const first = node("bdi", "", ends);
  const last = node("bdi", "", ends);
  const answer = node("div", "cnb-answer", place);
  const word = node("span", "", answer);
  const value = node("bdi", "cnb-hit-value", answer);
  const where = node("bdi", "cnb-muted", answer);
  const counts = node("span", "cnb-muted", answer);
  let before = "";
  return {
    update(part) {
      if (part.cells !== before) drawStrip(strip, part.cells);
      before = part.cells;
      strip.setAttribute("aria-label", `${part.searched} of ${part.tasks} tasks searched`);
      setText(first, part.first);
      setText(last, part.last);
      const hit = part.hit;
      mark.hidden = !hit;
      if (hit) mark.style.left = `${(100 * (hit.index + 0.5)) / Math.max(1, part.tasks)}%`;
      setText(word, hit ? "hit: " : "no hit yet ");
      setText(value, hit ? hit.value : "");
      setText(where, hit ? ` task ${hit.index} of ${part.tasks}${hit.label ? `, ${hit.label}` : ""}` : "");
      const others = [
        `${part.searched.toLocaleString()} searched`,
        part.cancelled && `${part.cancelled.toLocaleString()} cancelled`,
        part.failed && `${part.failed.toLocaleString()} failed`,
      ];
      setText(counts, ` · ${others.filter(Boolean).join(", ")}`);
    },
  };
}

function drawStrip(strip, cells) {
  strip.setAttribute("viewBox", `0 0 ${Math.max(1, cells.length)} 1`);
  const runs = [];
  for (let at = 0; at < cells.length; at++) {
    const run = runs[runs.length - 1];
    if (run && run.state === cells[at]) run.count += 1;
    else runs.push({ state: cells[at], at, count: 1 });
  }
  strip.replaceChildren(
    ...runs.map((run) => {
      const piece = document.createElementNS(SVG, "rect");
      piece.setAttribute("x", run.at);
      piece.setAttribute("width", run.count);
      piece.setAttribute("height", 1);
      piece.setAttribute("class", `cnb-cell-${WORDS[Number(run.state)]}`);
      return piece;
    }),
  );
}

function showTable(place) {
  const scroll = node("div", "cnb-scroll", place);
  const table = node("table", "cnb-table", scroll);
  const heads = node("tr", "", node("thead", "", table));
  const body = node("tbody", "", table);
  return {
    update(part) {
      if (!heads.children.length) for (const name of part.columns) setText(node("th", "", heads), name);
      const rows = part.first.map((row) => rowOf(row));
      if (part.left_out) {
        const gap = node("tr", "cnb-gap", null);
        const cell = node("td", "", gap);
        cell.colSpan = part.columns.length;
        setText(cell, `… ${part.left_out.toLocaleString()} more`);
        rows.push(gap);
      }
      rows.push(...part.last.map((row) => rowOf(row)));
      body.replaceChildren(...rows);
    },
  };
}

function rowOf(row) {
  const line = node("tr", row[row.length - 1] === "failed" ? "cnb-row-failed" : "", null);
  for (const value of row) setText(node("bdi", "", node("td", value.length > 40 ? "cnb-wide" : "", line)), value);
  return line;
}

// ------------------------------------------------------------------------------------------------------------- helpers

function node(name, classes, parent) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (parent) parent.append(made);
  return made;
}

function setText(target, value) {
  if (target.textContent !== value) target.textContent = value;
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

function seconds(value) {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 60) return `${Math.round(value)} s`;
  const minutes = Math.floor(value / 60);
  if (minutes < 60) return `${minutes} min ${String(Math.floor(value % 60)).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

function rate(value) {
  if (value < 10) return value.toFixed(1);
  return Math.round(value).toLocaleString();
}
