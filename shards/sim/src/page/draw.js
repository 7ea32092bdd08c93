// The diagram on its canvas: only what is visible is drawn, and what was drawn can be hit.

const canvas = document.getElementById("diagram");
const pen = canvas.getContext("2d");
const AXIS = 26, FAULT_ROW = 17, CLIENT_ROW = 12;
const FAULT_ROWS = 5;
const ARROWS_MAX = 1500, LABELS_MAX = 90;
const view = { t0: 0, t1: run.end || 1, y: 0, cursor: 0, hover: null, group: firstGroup(), off: new Set(["pulse"]) };
let hits = { arrows: [], boxes: [] };
let layout = null;
let drawn = { messages: 0, of: 0, pulses: 0 };

const style = {};
function readStyle() {
  const css = getComputedStyle(document.documentElement);
  for (const name of ["paper", "ground", "ink", "soft", "faint", "line", "lane", "accent", "bad", "good", "warn", "cursor",
    "vote", "append", "reply", "snapshot", "read", "handover", "pulse", "client", "network", "crash", "pause", "disk", "clock", "order",
    "follower-l", "follower-s", "leader-l", "leader-s", "edge-l", "leader-ink"]) {
    style[name] = css.getPropertyValue("--" + name).trim();
  }
}
const hue = (term) => (term * 137.508 + 205) % 360;
const termColour = (term, kind) => {
  const [s, l] = { leader: ["leader-s", "leader-l"], edge: ["leader-s", "edge-l"] }[kind] || ["follower-s", "follower-l"];
  return term === 0 ? `hsl(220 8% ${style[l]})` : `hsl(${hue(term)} ${style[s]} ${style[l]})`;
};
const FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const font = (px, weight = 400) => `${weight} ${px}px ${FONT}`;

const shownGroups = () => view.group === 0 ? groups : groups.filter((g) => g.id === view.group);
const isGroupShown = (group) => view.group === 0 || group === view.group;
const isMessageShown = (m) => isGroupShown(m.group) && !view.off.has(m.category);
function isShown(step) {
  switch (step.type) {
    case "sent": case "received": case "lost": return !!step.message && isMessageShown(step.message);
    case "log": return isGroupShown(step.group) && !view.off.has("log");
    case "client": case "asked": return isGroupShown(step.group) && !view.off.has("client");
    case "role": return isGroupShown(step.group);
    case "node": return !view.off.has("node");
    case "pulse": return !view.off.has("pulse");
    default: return true;
  }
}

// Faults in as few rows as they need.
const faultRows = [];
for (const fault of faults) {
  let row = faultRows.findIndex((end) => end <= fault.t0);
  // What finds no row of its own goes over others in the last one, and is named when it is chosen.
  fault.isOver = row < 0 && faultRows.length === FAULT_ROWS;
  if (row < 0) row = Math.min(faultRows.length, FAULT_ROWS - 1);
  faultRows[row] = Math.max(faultRows[row] || 0, fault.t1);
  fault.row = row;
}

function measure() {
  const width = canvas.clientWidth, height = canvas.clientHeight;
  const left = width < 560 ? 64 : 120;
  const shown = shownGroups().slice().sort((a, b) => a.core - b.core || a.id - b.id);
  const faultsHeight = faults.length ? faultRows.length * FAULT_ROW + 6 : 0;
  const clientsHeight = view.off.has("client") || !run.clients ? 0 : run.clients * CLIENT_ROW + 14;
  const top = AXIS + faultsHeight, bottom = height - clientsHeight;
  const one = shown.length === 1;
  const least = one ? 62 : shown.length > 6 ? 15 : 26;
  const tracks = new Map();
  const lanes = [];
  // With all groups a node shows those that it has had a replica of.
  const has = nodes.map((node) => one ? shown : shown.filter((g) => replicas.has(node + "/" + g.id)));
  const count = has.reduce((sum, list) => sum + Math.max(1, list.length), 0);
  const track = Math.min(one ? 150 : 60, Math.max(least, (bottom - top - 10 * nodes.length) / count));
  const all = track * count + 10 * nodes.length;
  let y = top + Math.max(0, (bottom - top - all) / 2) - Math.max(0, Math.min(view.y, all - (bottom - top)));
  view.y = Math.max(0, Math.min(view.y, all - (bottom - top)));
  nodes.forEach((node, at) => {
    const lane = track * Math.max(1, has[at].length) + 10;
    lanes.push({ node, y, height: lane });
    has[at].forEach((group, place) => {
      const height = track;
      const band = one ? Math.max(16, Math.min(26, height * 0.26)) : Math.max(6, Math.min(16, height * 0.5));
      const plot = one ? Math.min(46, height - band - 26) : height > 30 ? height - band - 10 : 0;
      const start = y + 5 + place * height;
      tracks.set(node + "/" + group.id, {
        node, group: group.id, core: group.core, y: start, height, band, plot,
        middle: start + (one ? Math.max(band / 2 + 8, (height - plot) * 0.42) : band / 2 + 2),
        first: place === 0 || has[at][place - 1].core !== group.core,
      });
    });
    y += lane;
  });
  layout = { width, height, left, top, bottom, faultsHeight, clientsHeight, tracks, lanes, one };
  layout.right = width;
}
const xOf = (t) => layout.left + ((t - view.t0) / (view.t1 - view.t0)) * (layout.right - layout.left);
const timeOf = (x) => view.t0 + ((x - layout.left) / (layout.right - layout.left)) * (view.t1 - view.t0);

let isPlanned = false;
function redraw() {
  if (isPlanned) return;
  isPlanned = true;
  requestAnimationFrame(() => { isPlanned = false; paint(); });
}

function fit(element, context) {
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(element.clientWidth * scale), height = Math.round(element.clientHeight * scale);
  if (element.width !== width || element.height !== height) { element.width = width; element.height = height; }
  context.setTransform(scale, 0, 0, scale, 0, 0);
}

function paint() {
  fit(canvas, pen);
  measure();
  hits = { arrows: [], boxes: [] };
  const { width, height, left, top, bottom } = layout;
  pen.fillStyle = style.paper;
  pen.fillRect(0, 0, width, height);
  paintLanes();
  pen.save();
  pen.beginPath();
  pen.rect(left, 0, width - left, height);
  pen.clip();
  paintAxis();
  paintFaults();
  pen.save();
  pen.beginPath();
  pen.rect(left, top, width - left, bottom - top);
  pen.clip();
  paintFaultShades();
  paintVeil();
  for (const track of layout.tracks.values()) {
    if (track.y + track.height < top || track.y > bottom) continue;
    if (track.plot > 8 && !view.off.has("log")) paintLog(track);
    paintSpans(track);
  }
  paintDowns();
  paintPulses();
  paintMessages();
  paintWins();
  pen.restore();
  if (layout.clientsHeight) paintClients();
  paintCursor();
  pen.restore();
  paintLabels();
  paintOverview();
}

function paintLanes() {
  const { lanes, width, top, bottom } = layout;
  pen.save();
  pen.beginPath();
  pen.rect(0, top, width, bottom - top);
  pen.clip();
  lanes.forEach((lane, at) => {
    if (at % 2) { pen.fillStyle = style.lane; pen.fillRect(0, lane.y, width, lane.height); }
    pen.fillStyle = style.line;
    pen.fillRect(0, Math.round(lane.y), width, 1);
  });
  pen.fillStyle = style.line;
  const last = lanes[lanes.length - 1];
  pen.fillRect(0, Math.round(last.y + last.height), width, 1);
  pen.restore();
}

const STEPS = [1, 2, 5];
function paintAxis() {
  const { left, width, bottom, top } = layout;
  const wanted = ((view.t1 - view.t0) / (width - left)) * 110;
  let tick = 1;
  for (let power = 1; tick < wanted; power *= 10) for (const s of STEPS) { tick = s * power; if (tick >= wanted) break; }
  const decimals = Math.max(0, 6 - Math.floor(Math.log10(tick)));
  pen.font = font(11);
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  for (let t = Math.ceil(view.t0 / tick) * tick; t <= view.t1; t += tick) {
    const x = Math.round(xOf(t));
    pen.fillStyle = style.line;
    pen.globalAlpha = 0.6;
    pen.fillRect(x, AXIS - 6, 1, bottom - AXIS + 6);
    pen.globalAlpha = 1;
    pen.fillStyle = style.soft;
    pen.fillText((t / 1e6).toFixed(Math.min(6, decimals)) + " s", x + 4, AXIS / 2);
  }
  pen.fillStyle = style.line;
  pen.fillRect(left, AXIS - 1, width, 1);
  pen.fillRect(left, top - 1, width, 1);
}

function label(words, x, width, y, colour, size = 11, weight = 500) {
  pen.font = font(size, weight);
  const from = Math.max(x, layout.left) + 5;
  const room = Math.min(x + width, layout.width) - from - 4;
  if (room < 12) return false;
  if (pen.measureText(words).width > room) {
    let short = words.slice(0, Math.floor((words.length * room) / pen.measureText(words).width));
    while (short && pen.measureText(short + "…").width > room) short = short.slice(0, -1);
    if (short.length < 3) return false;
    words = short + "…";
  }
  pen.fillStyle = colour;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  pen.fillText(words, from, y + 0.5);
  return true;
}

function paintFaults() {
  for (const fault of faults) {
    if (fault.t1 < view.t0 || fault.t0 > view.t1) continue;
    const x = xOf(fault.t0), width = Math.max(3, xOf(fault.t1) - x), y = AXIS + 3 + fault.row * FAULT_ROW;
    const isFront = view.hover === fault.i || steps[view.cursor].fault === fault;
    pen.globalAlpha = isFront ? 0.42 : 0.2;
    pen.fillStyle = style[fault.kind];
    pen.fillRect(x, y, width, FAULT_ROW - 2);
    pen.globalAlpha = 1;
    pen.fillRect(x, y, 2, FAULT_ROW - 2);
    if (!fault.isOver || isFront) label(fault.text, x, width, y + (FAULT_ROW - 2) / 2, style.ink);
    hits.boxes.push({ x, y, width, height: FAULT_ROW - 2, i: fault.i });
  }
}

// The nodes that a fault touches, while it lasts.
function paintFaultShades() {
  for (const fault of faults) {
    if (fault.t1 < view.t0 || fault.t0 > view.t1 || fault.kind === "order") continue;
    const x = Math.max(layout.left, xOf(fault.t0)), width = Math.max(1, Math.min(layout.width, xOf(fault.t1)) - x);
    for (const lane of layout.lanes) {
      if (fault.nodes.length && !fault.nodes.includes(lane.node)) continue;
      pen.fillStyle = style[fault.kind];
      pen.globalAlpha = 0.09;
      pen.fillRect(x, lane.y + 1, width, lane.height - 1);
      pen.globalAlpha = 0.9;
      pen.fillRect(x, lane.y + 1, width, 2);
      if (fault.kind === "pause") hatch(x, lane.y, width, lane.height, style.pause, 0.35, 9);
      pen.globalAlpha = 1;
    }
  }
}

// Where the page holds landmarks only.
function paintVeil() {
  if (!isCut) return;
  const { top, left, width, bottom } = layout;
  for (const [t0, t1] of [[0, fullFrom], [fullTo, run.end]]) {
    if (t1 <= t0 || t1 < view.t0 || t0 > view.t1) continue;
    const x = Math.max(left, xOf(t0)), end = Math.min(width, xOf(t1));
    hatch(x, top, end - x, bottom - top, style.faint, 0.25, 14);
    if (label("messages and logs are left out here", x, end - x, bottom - 10, style.soft)) continue;
  }
}

function hatch(x, y, width, height, colour, alpha, gap = 6) {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, width, height);
  pen.clip();
  pen.strokeStyle = colour;
  pen.globalAlpha = alpha;
  pen.lineWidth = 1.4;
  pen.beginPath();
  const from = Math.max(x, layout.left), to = Math.min(x + width, layout.width);
  for (let at = Math.floor((from - height) / gap) * gap; at < to; at += gap) {
    pen.moveTo(at, y + height);
    pen.lineTo(at + height, y);
  }
  pen.stroke();
  pen.restore();
}

function paintSpans(track) {
  const found = replicas.get(track.node + "/" + track.group);
  const { middle, band } = track;
  pen.fillStyle = style.line;
  pen.fillRect(layout.left, middle - 0.5, layout.width, 1);
  if (!found) return;
  const { spans } = found;
  let at = Math.max(0, after(spans, view.t0, (s) => s.t0) - 1);
  for (; at < spans.length && spans[at].t0 <= view.t1; at++) {
    const span = spans[at];
    if (span.t1 < view.t0) continue;
    const x = Math.max(layout.left - 2, xOf(span.t0)), width = Math.max(1.5, Math.min(layout.width + 2, xOf(span.t1)) - x);
    paintSpan(span, track, x, width);
  }
}

function paintSpan(span, track, x, width) {
  const { middle, band } = track;
  const { role, term } = span;
  const thin = role === "learner" || role === "outsider";
  const height = thin ? band * 0.5 : role === "leader" ? band : band * 0.82;
  const y = middle - height / 2;
  const edge = termColour(term, "edge");
  pen.fillStyle = role === "leader" ? termColour(term, "leader") : role === "outsider" ? style.ground : termColour(term, "follower");
  pen.fillRect(x, y, width, height);
  if (role === "candidate") hatch(x, y, width, height, termColour(term, "leader"), 1, 6);
  if (role === "pre-candidate") hatch(x, y, width, height, edge, 0.8, 10);
  if (role !== "leader" && width > 3) {
    pen.strokeStyle = edge;
    pen.lineWidth = 1;
    pen.setLineDash(thin ? [3, 3] : []);
    pen.strokeRect(x + 0.5, y + 0.5, width - 1, height - 1);
    pen.setLineDash([]);
  }
  hits.boxes.push({ x, y, width, height, i: span.i });
  if (height < 9) return;
  const { leader } = span;
  const whom = role === "follower" || role === "learner" ? (leader ? ` of ${n(leader)}` : ", no leader") : "";
  const words = layout.one ? `${role}${whom} · term ${term}` : `${role === "leader" ? "leader " : ""}t${term}`;
  if (role === "leader") label(words, x, width, middle, style["leader-ink"], Math.min(12, height - 3), 650);
  else if (!thin) {
    if (role.endsWith("candidate")) {
      pen.font = font(11, 600);
      const room = Math.min(pen.measureText(words).width + 8, width - 4);
      if (room > 24) { pen.fillStyle = style.paper; pen.globalAlpha = 0.85; pen.fillRect(Math.max(x, layout.left) + 2, y + 2, room, height - 4); pen.globalAlpha = 1; }
    }
    label(words, x, width, middle, style.ink, Math.min(11, height - 2), role.endsWith("candidate") ? 600 : 400);
  }
}

// The log as it grows: a line for its end, lighter for what is on disk, full for what is committed.
function paintLog(track) {
  const found = replicas.get(track.node + "/" + track.group);
  if (!found || !found.logs.length) return;
  const { low, high } = scaleOf(track.group);
  const base = track.y + track.height - 3, room = track.plot - 4;
  const yOf = (index) => base - (Math.max(0, index - low) / Math.max(1, high - low)) * room;
  const { logs } = found;
  const points = [];
  let at = Math.max(0, after(logs, view.t0, (l) => l.t) - 1);
  let lastX = -9;
  for (; at < logs.length && logs[at].t <= view.t1; at++) {
    const x = Math.max(layout.left - 1, xOf(logs[at].t));
    // Of several within a pixel the last counts.
    if (x - lastX < 0.5 && points.length) points[points.length - 1] = { x: lastX, log: logs[at] };
    else points.push({ x, log: logs[at] });
    lastX = points[points.length - 1].x;
  }
  if (!points.length) return;
  const down = downs[track.node - 1];
  const pieces = points.map((point, place) => {
    let end = place + 1 < points.length ? points[place + 1].x : isCut ? Math.max(point.x, Math.min(layout.width, xOf(fullTo))) : layout.width;
    const stop = down.find((d) => d.t0 >= point.log.t);
    if (stop) end = Math.min(end, Math.max(point.x, xOf(stop.t0)));
    return [point.x, end, point.log];
  });
  const area = (pick, alpha) => {
    pen.globalAlpha = alpha;
    pen.fillStyle = style.append;
    pen.beginPath();
    for (const [x, end, log] of pieces) pen.rect(x, yOf(pick(log)), Math.max(0.5, end - x), base - yOf(pick(log)) + 1);
    pen.fill();
    pen.globalAlpha = 1;
  };
  area((log) => Math.min(log.last, log.durable), 0.13);
  area((log) => log.commit, 0.3);
  pen.strokeStyle = style.append;
  pen.lineWidth = 1.3;
  pen.beginPath();
  for (const [x, end, log] of pieces) { pen.moveTo(x, yOf(log.last)); pen.lineTo(end, yOf(log.last)); }
  pen.stroke();
  if (!layout.one) return;
  pen.font = font(10);
  pen.textBaseline = "bottom";
  pen.textAlign = "left";
  let free = layout.left + 3;
  let before = null;
  for (const [x, , log] of pieces) {
    const words = before && before.last === log.last ? `✓${log.commit}` : `${log.last}`;
    const isNew = !before || before.last !== log.last || before.commit !== log.commit;
    before = log;
    if (!isNew || x < free) continue;
    pen.fillStyle = style.soft;
    pen.fillText(words, x + 2, Math.max(track.y + track.height - track.plot + 9, yOf(log.last) - 1));
    free = x + pen.measureText(words).width + 14;
    hits.boxes.push({ x, y: base - room, width: 14, height: room, i: log.i });
  }
}

let scales = { key: "", of: new Map() };
function scaleOf(group) {
  const key = view.t0 + "," + view.t1;
  if (scales.key !== key) scales = { key, of: new Map() };
  let scale = scales.of.get(group);
  if (!scale) {
    scale = { low: Infinity, high: 0 };
    for (const one of replicas.values()) {
      if (one.group !== group) continue;
      const first = logAt(one.logs, view.t0), last = logAt(one.logs, view.t1);
      if (last) { scale.high = Math.max(scale.high, last.last); scale.low = Math.min(scale.low, (first || { commit: 0 }).commit); }
    }
    if (scale.low === Infinity) scale.low = 0;
    scale.low = Math.max(0, scale.low - 1);
    scales.of.set(group, scale);
  }
  return scale;
}

function paintDowns() {
  for (const lane of layout.lanes) {
    for (const down of downs[lane.node - 1]) {
      if (down.t1 < view.t0 || down.t0 > view.t1) continue;
      const from = xOf(down.t0), x = Math.max(layout.left, from), to = xOf(down.t1), width = Math.max(2, Math.min(layout.width, to) - x);
      pen.fillStyle = style.paper;
      pen.globalAlpha = 0.75;
      pen.fillRect(x, lane.y + 3, width, lane.height - 3);
      pen.globalAlpha = 1;
      hatch(x, lane.y + 3, width, lane.height - 3, style.crash, 0.22, 8);
      pen.strokeStyle = style.crash;
      pen.lineWidth = 2;
      const y = layout.one ? layout.tracks.get(lane.node + "/" + view.group).middle : lane.y + lane.height / 2;
      if (from >= layout.left) {
        pen.beginPath();
        pen.moveTo(from - 5, y - 5); pen.lineTo(from + 5, y + 5); pen.moveTo(from + 5, y - 5); pen.lineTo(from - 5, y + 5);
        pen.stroke();
      }
      label("down: " + (down.why === "ends" ? (down.power ? "power failed" : "killed") : down.why), x + 6, width - 6, y, style.crash, 11, 600);
      hits.boxes.push({ x: x - 5, y: lane.y + 3, width: width + 5, height: lane.height - 3, i: down.i });
    }
  }
}

function arrowOf(message) {
  const from = layout.tracks.get(message.node + "/" + message.group), to = layout.tracks.get(message.to + "/" + message.group);
  if (!from || !to) return null;
  const way = Math.sign(to.middle - from.middle);
  return { x0: xOf(message.t), y0: from.middle + (way * from.band) / 2, y1: to.middle - (way * to.band) / 2 };
}

function paintMessages() {
  const places = underWay(view.t0, view.t1).filter((place) => isMessageShown(messages[place]));
  const chosen = steps[view.cursor].message;
  const hovered = view.hover !== null && steps[view.hover] ? steps[view.hover].message : null;
  drawn.messages = drawn.of = places.length;
  let few = places;
  const isSteep = places.length > 150 && (view.t1 - view.t0) / (layout.width - layout.left) > 300;
  if (isSteep || places.length > ARROWS_MAX) {
    paintDensity(places);
    // Of the rest only what matters in itself.
    few = places.filter((place) => ["vote", "handover", "snapshot"].includes(messages[place].category) || !messages[place].received.length);
    if (few.length > ARROWS_MAX) few = few.filter((_, at) => at % Math.ceil(few.length / ARROWS_MAX) === 0);
    drawn.messages = few.length;
  }
  const labels = few.length <= LABELS_MAX && !isSteep ? [] : null;
  const alpha = isSteep ? (layout.one ? 0.45 : 0.25) : few.length > 400 ? 0.45 : 0.85;
  for (const place of few) {
    const message = messages[place];
    if (message !== chosen && message !== hovered) paintMessage(message, alpha, false, labels, isSteep);
  }
  if (hovered && hovered !== chosen && isMessageShown(hovered)) paintMessage(hovered, 1, true, labels);
  if (chosen && isMessageShown(chosen)) paintMessage(chosen, 1, true, labels || []);
}

// Pulses go from node to node, for all groups and cores: dotted, and thinner than messages.
function paintPulses() {
  drawn.pulses = 0;
  if (view.off.has("pulse")) return;
  const front = [steps[view.cursor].pulse, view.hover !== null && steps[view.hover] ? steps[view.hover].pulse : null];
  const found = beating(view.t0, view.t1);
  // Of too many one in so many; those that are lost are counted for themselves.
  const some = (list) => list.filter((_, at) => at % Math.ceil(list.length / ARROWS_MAX) === 0);
  const shown = [...some(found.filter((p) => p.lost === null)), ...some(found.filter((p) => p.lost !== null))];
  const alpha = shown.length > 400 ? 0.4 : 0.8;
  const middleOf = (node) => {
    const track = layout.one && layout.tracks.get(node + "/" + view.group), lane = layout.lanes[node - 1];
    return track ? { y: track.middle, band: track.band } : { y: lane.y + lane.height / 2, band: 0 };
  };
  for (const pulse of shown) {
    const from = middleOf(pulse.node), to = middleOf(pulse.to), way = Math.sign(to.y - from.y);
    const y0 = from.y + (way * from.band) / 2, isFront = front.includes(pulse);
    let x1 = xOf(pulse.end), y1 = to.y - (way * to.band) / 2;
    const x0 = xOf(pulse.t);
    if (pulse.lost !== null) { y1 = y0 + (y1 - y0) * 0.4; x1 = Math.max(x1, x0 + 6); }
    pen.globalAlpha = isFront ? 1 : alpha;
    pen.strokeStyle = pen.fillStyle = pulse.lost === null ? style.pulse : style.bad;
    pen.lineWidth = isFront ? 2.2 : 0.9;
    pen.setLineDash([1.5, 3]);
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    pen.stroke();
    pen.setLineDash([]);
    pen.beginPath();
    const s = isFront ? 4.5 : 3;
    if (pulse.lost === null) { pen.arc(x1, y1, s * 0.7, 0, 7); pen.fill(); }
    else { pen.moveTo(x1 - s, y1 - s); pen.lineTo(x1 + s, y1 + s); pen.moveTo(x1 + s, y1 - s); pen.lineTo(x1 - s, y1 + s); pen.stroke(); }
    hits.arrows.push({ x0, y0, x1, y1, i: pulse.i });
  }
  pen.globalAlpha = 1;
  drawn.pulses = shown.length;
}

function paintMessage(message, alpha, isFront, labels, isSteep = false) {
  const arrow = arrowOf(message);
  if (!arrow) return;
  const { x0, y0, y1 } = arrow;
  const isLost = !message.received.length;
  const colour = isLost && message.lost ? style.bad : style[message.category];
  const width = isFront ? 2.6 : message.category === "vote" || message.category === "handover" ? 1.7 : 1.15;
  pen.globalAlpha = alpha;
  pen.strokeStyle = colour;
  pen.fillStyle = colour;
  pen.lineWidth = width;
  const ends = isLost ? [{ t: message.lost ? message.lost.t : run.end, i: message.sent }] : message.received;
  for (const end of ends) {
    let x1 = xOf(end.t), yEnd = y1;
    if (isLost) {
      // It does not get there: it ends on the way.
      yEnd = y0 + (y1 - y0) * 0.55;
      x1 = Math.min(Math.max(x1, x0 + 10), x0 + 60);
      pen.setLineDash([5, 4]);
    } else if (end !== message.received[0]) pen.setLineDash([2, 4]);
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, yEnd);
    if (!isSteep || !isLost) pen.stroke();
    pen.setLineDash([]);
    const angle = Math.atan2(yEnd - y0, x1 - x0), size = isFront ? 9 : 6.5;
    pen.beginPath();
    if (isLost) {
      const s = isFront ? 6 : isSteep ? 2.5 : 4;
      pen.lineWidth = isSteep ? 1.2 : 2;
      pen.moveTo(x1 - s, yEnd - s); pen.lineTo(x1 + s, yEnd + s); pen.moveTo(x1 + s, yEnd - s); pen.lineTo(x1 - s, yEnd + s);
      pen.stroke();
      pen.lineWidth = width;
    } else {
      pen.moveTo(x1, yEnd);
      pen.lineTo(x1 - size * Math.cos(angle - 0.4), yEnd - size * Math.sin(angle - 0.4));
      pen.lineTo(x1 - size * Math.cos(angle + 0.4), yEnd - size * Math.sin(angle + 0.4));
      pen.closePath();
      if (isNo(message)) { pen.fillStyle = style.paper; pen.fill(); pen.stroke(); pen.fillStyle = colour; } else pen.fill();
    }
    hits.arrows.push({ x0, y0, x1, y1: yEnd, i: message.sent });
    if (isFront) { pen.beginPath(); pen.arc(x0, y0, 3.5, 0, 7); pen.fill(); }
  }
  pen.globalAlpha = 1;
  const isLevel = Math.abs(xOf(ends[0].t) - x0) > 6 || labels?.length < 8;
  if (labels && (isFront || isLevel)) arrowLabel(message, arrow, xOf(ends[0].t), labels, colour, isFront);
}

function arrowLabel(message, { x0, y0, y1 }, x1, labels, colour, isFront) {
  pen.font = font(11, isFront ? 650 : 500);
  const words = shortOf(message), width = pen.measureText(words).width;
  // Along the first part of the way, where arrows to several nodes are apart.
  for (const part of [0.3, 0.45, 0.6, 0.2]) {
    const x = x0 + (x1 - x0) * part + 5, y = y0 + (y1 - y0) * part;
    const box = { x: x - 2, y: y - 7, width: width + 4, height: 14 };
    const hitsOther = labels.some((b) => b.x < box.x + box.width && box.x < b.x + b.width && b.y < box.y + box.height && box.y < b.y + b.height);
    const hitsBand = [...layout.tracks.values()].some((track) => Math.abs(track.middle - y) < track.band / 2 + 7);
    if (!isFront && (hitsOther || hitsBand || x + width < layout.left)) continue;
    labels.push(box);
    pen.fillStyle = style.paper;
    pen.globalAlpha = 0.85;
    pen.fillRect(box.x, box.y, box.width, box.height);
    pen.globalAlpha = 1;
    pen.fillStyle = colour;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    pen.fillText(words, x, y + 0.5);
    return;
  }
}

// Too many for arrows: how many left each replica, for every few pixels.
function paintDensity(places) {
  const cell = 3, cells = Math.ceil((layout.width - layout.left) / cell);
  const counts = new Map();
  let most = 1;
  for (const place of places) {
    const { node, group, t } = messages[place];
    const key = node * 1e6 + group, at = Math.floor((xOf(t) - layout.left) / cell);
    if (at < 0 || at >= cells) continue;
    if (!counts.has(key)) counts.set(key, new Uint32Array(cells));
    most = Math.max(most, ++counts.get(key)[at]);
  }
  pen.fillStyle = style.reply;
  for (const [key, list] of counts) {
    const track = layout.tracks.get(Math.floor(key / 1e6) + "/" + (key % 1e6));
    if (!track) continue;
    const foot = track.middle - track.band / 2 - 1, room = Math.max(3, Math.min(24, track.middle - track.band / 2 - track.y));
    pen.globalAlpha = 0.75;
    list.forEach((count, at) => {
      if (count) {
        const height = Math.max(1.5, room * Math.sqrt(count / most));
        pen.fillRect(layout.left + at * cell, foot - height, cell - 1, height);
      }
    });
    pen.globalAlpha = 1;
  }
}

// A flag on each election that was won.
function paintWins() {
  pen.textAlign = "center";
  pen.textBaseline = "middle";
  for (const campaign of campaigns) {
    if (!isGroupShown(campaign.group) || campaign.t1 < view.t0 || campaign.t1 > view.t1 || !campaign.won) continue;
    const track = layout.tracks.get(campaign.node + "/" + campaign.group);
    if (!track) continue;
    const x = xOf(campaign.t1), y = track.middle - track.band / 2 - 7;
    if (!layout.one && track.band < 8) continue;
    pen.font = font(layout.one ? 15 : 11);
    pen.fillStyle = style.paper;
    pen.fillText("★", x + 0.7, y + 0.7);
    pen.fillStyle = termColour(campaign.term, "leader");
    pen.fillText("★", x, y);
    hits.boxes.push({ x: x - 9, y: y - 9, width: 18, height: 18, i: campaign.last });
  }
}

function paintClients() {
  const { width, left, bottom } = layout;
  pen.fillStyle = style.line;
  pen.fillRect(left, bottom, width, 1);
  const ends = [];
  for (const operation of operations) {
    if (operation.t1 < view.t0 || operation.t0 > view.t1 || !isGroupShown(operation.group)) continue;
    const y = bottom + 7 + operation.client * CLIENT_ROW;
    const x = Math.max(left - 2, xOf(operation.t0)), end = Math.max(x + 2, Math.min(width + 2, xOf(operation.t1)));
    const phase = operation.ends ? operation.ends.phase : "open";
    // Of many within a pixel one is enough, unless it ended badly.
    if (phase === "answered" && end <= ends[operation.client] + 0.7 && steps[view.cursor].operation !== operation) continue;
    ends[operation.client] = end;
    pen.fillStyle = phase === "answered" ? style.good : phase === "open" ? style.faint : style.bad;
    const isFront = steps[view.cursor].operation === operation || (view.hover !== null && steps[view.hover] && steps[view.hover].operation === operation);
    pen.globalAlpha = isFront ? 0.9 : phase === "answered" ? 0.45 : 0.7;
    pen.fillRect(x, y + 1, end - x, CLIENT_ROW - 3);
    pen.globalAlpha = 1;
    if (end - x > 60) label(operation.asks.text.replace(/^asks \d+: /, ""), x, end - x, y + CLIENT_ROW / 2 - 0.5, style.ink, 9, 500);
    hits.boxes.push({ x, y, width: end - x, height: CLIENT_ROW, i: operation.asks.i });
    if (isFront) for (const attempt of operation.tries) {
      const track = layout.tracks.get(attempt.node + "/" + attempt.group);
      if (!track) continue;
      pen.strokeStyle = style.client;
      pen.lineWidth = 1.3;
      pen.setLineDash([4, 3]);
      pen.beginPath();
      pen.moveTo(xOf(attempt.t), y);
      pen.lineTo(xOf(attempt.t), track.middle + track.band / 2);
      pen.stroke();
      pen.setLineDash([]);
      pen.beginPath();
      pen.arc(xOf(attempt.t), track.middle + track.band / 2, 3, 0, 7);
      pen.fillStyle = style.client;
      pen.fill();
    }
  }
}

function paintCursor() {
  const step = steps[view.cursor];
  const x = xOf(step.t);
  if (x >= layout.left - 1 && x <= layout.width + 1) {
    pen.fillStyle = style.cursor;
    pen.globalAlpha = 0.75;
    pen.fillRect(x - 0.5, AXIS - 4, 1, layout.height);
    pen.globalAlpha = 1;
    const words = seconds(step.t);
    pen.font = font(11, 600);
    const width = pen.measureText(words).width + 12;
    const at = Math.max(layout.left + 2, Math.min(layout.width - width - 2, x - width / 2));
    pen.fillStyle = style.cursor;
    pen.beginPath();
    pen.roundRect(at, 3, width, 18, 5);
    pen.fill();
    pen.fillStyle = style.paper;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    pen.fillText(words, at + 6, 12.5);
    const track = step.node && step.group ? layout.tracks.get(step.node + "/" + step.group) : null;
    const lane = step.node ? layout.lanes[step.node - 1] : null;
    if (track || lane) {
      pen.strokeStyle = style.cursor;
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(x, track ? track.middle : lane.y + lane.height / 2, 6, 0, 7);
      pen.fillStyle = style.paper;
      pen.fill();
      pen.stroke();
    }
  }
  if (view.t1 >= run.end && run.failure) {
    pen.fillStyle = style.bad;
    pen.fillRect(xOf(run.end) - 3, AXIS, 3, layout.height);
  }
}

function paintLabels() {
  const { left, height, top, bottom, lanes, one, tracks } = layout;
  const t = steps[view.cursor].t;
  pen.fillStyle = style.line;
  pen.fillRect(left - 1, 0, 1, height);
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  pen.font = font(11);
  pen.fillStyle = style.soft;
  pen.fillText("time", 10, AXIS / 2);
  if (layout.faultsHeight) pen.fillText("faults", 10, AXIS + layout.faultsHeight / 2);
  if (layout.clientsHeight) {
    pen.fillText("clients", 10, bottom + layout.clientsHeight / 2);
  }
  pen.save();
  pen.beginPath();
  pen.rect(0, top, left, bottom - top);
  pen.clip();
  for (const lane of lanes) {
    const isDown = downs[lane.node - 1].some((d) => d.t0 <= t && t < d.t1);
    const first = [...tracks.values()].find((track) => track.node === lane.node);
    const y = one ? first.middle : lane.y + 14;
    pen.font = font(14, 650);
    pen.fillStyle = isDown ? style.crash : style.ink;
    pen.fillText(n(lane.node), 10, y);
    pen.font = font(11);
    pen.fillStyle = style.soft;
    if (one && run.cores > 1) pen.fillText("core " + first.core, 38, y);
    if (isDown) { pen.fillStyle = style.crash; pen.fillText("down", one ? 10 : 38, one ? y + 17 : y); }
    if (one && !isDown) {
      const found = replicas.get(lane.node + "/" + first.group);
      const span = found && spanAt(found.spans, t), log = found && logAt(found.logs, t);
      if (!found) pen.fillText("no replica", 10, y + 16);
      if (span) {
        pen.fillText(left > 80 ? `${span.role} t${span.term}` : `t${span.term}`, 10, y + 16);
        if (log && lane.height > 70) pen.fillText(left > 80 ? `log ${log.last} ✓ ${log.commit}` : `${log.last} ✓${log.commit}`, 10, y + 31);
      }
    }
  }
  if (!one) for (const track of tracks.values()) {
    pen.font = font(10);
    pen.fillStyle = style.soft;
    pen.textAlign = "right";
    if (track.height > 11) pen.fillText((run.cores > 1 && track.first ? `c${track.core} ` : "") + "g" + track.group, left - 6, track.middle);
    if (run.cores > 1 && track.first && track.core > 0) {
      pen.fillStyle = style.line;
      pen.fillRect(left - 30, track.y, 30, 1);
    }
    pen.textAlign = "left";
  }
  pen.restore();
}

// ---- the overview of the whole run ----

const overview = document.getElementById("overview");
const thin = overview.getContext("2d");
function paintOverview() {
  fit(overview, thin);
  const width = overview.clientWidth, height = overview.clientHeight, { left } = layout;
  const at = (t) => left + (t / Math.max(1, run.end)) * (width - left);
  thin.fillStyle = style.ground;
  thin.fillRect(0, 0, width, height);
  const row = (height - 16) / nodes.length;
  const group = view.group || (steps[view.cursor].group || groups[0].id);
  for (const one of replicas.values()) {
    if (one.group !== group) continue;
    for (const span of one.spans) {
      thin.fillStyle = termColour(span.term, span.role === "leader" ? "leader" : "follower");
      thin.fillRect(at(span.t0), 10 + (one.node - 1) * row, Math.max(1, at(span.t1) - at(span.t0)), Math.max(1, row - 1));
    }
  }
  nodes.forEach((node) => downs[node - 1].forEach((down) => {
    thin.fillStyle = style.crash;
    thin.fillRect(at(down.t0), 10 + (node - 1) * row + row / 2 - 1, Math.max(2, at(down.t1) - at(down.t0)), 1.5);
  }));
  for (const fault of faults) {
    thin.fillStyle = style[fault.kind];
    thin.fillRect(at(fault.t0), 2, Math.max(2, at(fault.t1) - at(fault.t0)), 3);
  }
  for (const campaign of campaigns) {
    if (!campaign.won || campaign.group !== group) continue;
    thin.fillStyle = style.ink;
    thin.fillRect(at(campaign.t1), 6, 1.5, height - 12);
  }
  for (const step of failures) {
    thin.fillStyle = style.bad;
    thin.beginPath();
    thin.arc(Math.min(width - 3, at(step.t)), height - 4, 2.5, 0, 7);
    thin.fill();
  }
  const x = at(view.t0), end = at(view.t1);
  thin.fillStyle = style.ink;
  thin.globalAlpha = 0.16;
  thin.fillRect(left, 0, x - left, height);
  thin.fillRect(end, 0, width - end, height);
  thin.globalAlpha = 1;
  thin.strokeStyle = style.accent;
  thin.lineWidth = 2;
  thin.strokeRect(Math.max(left, x) + 1, 1, Math.max(3, end - x) - 2, height - 2);
  thin.fillStyle = style.cursor;
  thin.fillRect(at(steps[view.cursor].t), 0, 1, height);
  thin.fillStyle = style.soft;
  thin.font = font(11);
  thin.textBaseline = "middle";
  thin.fillText("whole run", 10, height / 2);
}
