// Keys, mouse and buttons; where one is, and how one gets elsewhere.

// The next step that is shown, that way; null if there is none.
function next(from, way, wanted = isShown) {
  for (let i = from + way; i >= 0 && i < steps.length; i += way) if (wanted(steps[i])) return steps[i];
  return null;
}

const LEAST = 40; // microseconds across the diagram
function setWindow(t0, t1) {
  const width = Math.max(LEAST, Math.min(t1 - t0, run.end * 1.02 + LEAST));
  const middle = (t0 + t1) / 2;
  const slack = Math.min(width * 0.5, run.end * 0.02 + LEAST);
  view.t0 = Math.max(-slack, Math.min(middle - width / 2, run.end + slack - width));
  view.t1 = view.t0 + width;
  redraw();
}
const whole = () => setWindow(-run.end * 0.01, run.end * 1.01);

function goTo(i) {
  const step = steps[Math.max(0, Math.min(steps.length - 1, i))];
  view.cursor = step.i;
  const width = view.t1 - view.t0;
  if (step.t < view.t0 + width * 0.04 || step.t > view.t1 - width * 0.04) {
    setWindow(step.t - width / 2, step.t + width / 2);
  }
  if (step.group && !isGroupShown(step.group)) setGroup(step.group);
  bringUp(step);
  showStep();
  redraw();
  save();
}

// Scrolls a lane into sight.
function bringUp(step) {
  if (!layout || !step.node) return;
  const lane = layout.lanes[step.node - 1];
  if (lane.y < layout.top) view.y -= layout.top - lane.y;
  else if (lane.y + lane.height > layout.bottom) view.y += lane.y + lane.height - layout.bottom;
}

function stepBy(way) {
  const step = next(view.cursor, way);
  if (step) goTo(step.i);
  return !!step;
}

// Shows so much around a stretch of time that it can be read.
function frame(t0, t1) {
  const room = Math.max((t1 - t0) * 0.22, 120);
  setWindow(t0 - room, t1 + room * 1.6);
}

function jumpElection(way) {
  const list = campaigns.filter((c) => isGroupShown(c.group));
  const found = way > 0 ? list.find((c) => c.i > view.cursor) : list.findLast((c) => c.i < view.cursor);
  if (!found) return say(way > 0 ? "No election after this." : "No election before this.");
  // Up to the first words of a leader to its followers.
  const first = found.won ? messages.slice(after(messages, found.t1 - 1, (m) => m.t)).find((m) => m.group === found.group && m.node === found.node && m.kind === "Append") : null;
  const end = first && first.end - found.t1 < 4 * (found.t1 - found.t0) + 400 ? first.end : found.t1;
  if (view.group !== found.group) setGroup(found.group);
  frame(found.t0, end);
  told = found;
  goTo(found.i);
}

function jumpFault(way) {
  const found = next(view.cursor, way, (s) => (s.type === "fault" && s.begins) || s.type === "calm");
  if (!found) return say(way > 0 ? "No fault after this." : "No fault before this.");
  const fault = found.fault;
  if (fault) frame(fault.t0, Math.max(fault.t1, fault.t0 + 2000));
  goTo(found.i);
}

function jumpFailure(way) {
  const found = way > 0 ? failures.find((s) => s.i > view.cursor) : failures.findLast((s) => s.i < view.cursor);
  if (!found) return say(failures.length ? "No failure that way." : "Nothing fails in this run.");
  const width = Math.min(view.t1 - view.t0, 400000);
  setWindow(found.t - width * 0.8, found.t + width * 0.2);
  goTo(found.i);
}

function say(words) {
  $("now").prepend(make("p", { class: "when" }, words));
}

function setGroup(group) {
  view.group = group;
  view.y = 0;
  $("group").value = String(group);
  if (told && !isGroupShown(told.group)) told = null;
  showStep();
  redraw();
  save();
}
function nextGroup(way) {
  const at = groups.findIndex((g) => g.id === view.group);
  setGroup(groups[(at + way + groups.length) % groups.length].id);
}

function zoom(by, x) {
  const t = x === undefined ? Math.max(view.t0, Math.min(view.t1, steps[view.cursor].t)) : timeOf(x);
  const width = Math.max(LEAST, Math.min((view.t1 - view.t0) * by, run.end * 1.02 + LEAST));
  const part = (t - view.t0) / (view.t1 - view.t0);
  setWindow(t - width * part, t + width * (1 - part));
}
function pan(part) {
  const by = (view.t1 - view.t0) * part;
  setWindow(view.t0 + by, view.t1 + by);
}

// ---- playing ----

let playing = null;
function play(on = !playing) {
  clearInterval(playing);
  playing = on ? setInterval(() => stepBy(1) || play(false), Number($("speed").value)) : null;
  $("play").textContent = on ? "❚❚ Stop" : "▶ Play";
  $("play").setAttribute("aria-pressed", String(on));
}

// ---- the address: a link shows the same ----

let saving = null;
function save() {
  clearTimeout(saving);
  saving = setTimeout(() => {
    const parts = [`step=${view.cursor}`, `from=${Math.round(view.t0)}`, `to=${Math.round(view.t1)}`, `group=${view.group}`];
    try { history.replaceState(null, "", "#" + parts.join("&")); } catch { /* a page without an address */ }
  }, 250);
}
function restore() {
  const parts = new Map(location.hash.slice(1).split("&").map((part) => part.split("=")).map(([k, v]) => [k, Number(v)]));
  const of = (key) => (Number.isFinite(parts.get(key)) ? parts.get(key) : null);
  const group = of("group");
  if (group === 0 || groups.some((g) => g.id === group)) { view.group = group; $("group").value = String(group); }
  if (of("from") !== null && of("to") > of("from")) setWindow(of("from"), of("to"));
  if (of("step") !== null && steps[of("step")]) { view.cursor = of("step"); return true; }
  return false;
}

// ---- keys ----

const KEY_ACTIONS = {
  ArrowLeft: (event) => event.shiftKey ? pan(-0.2) : stepBy(-1),
  ArrowRight: (event) => event.shiftKey ? pan(0.2) : stepBy(1),
  ArrowUp: () => { view.y -= 40; redraw(); },
  ArrowDown: () => { view.y += 40; redraw(); },
  Home: () => { const first = next(-1, 1); if (first) goTo(first.i); },
  End: () => { const last = next(steps.length, -1); if (last) goTo(last.i); },
  " ": () => play(), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), "−": () => zoom(1 / 0.6),
  0: whole, e: () => jumpElection(1), E: () => jumpElection(-1), f: () => jumpFault(1), F: () => jumpFault(-1),
  p: () => $("show-pulse").click(),
  x: () => jumpFailure(1), X: () => jumpFailure(-1), g: () => nextGroup(1), G: () => nextGroup(-1),
  a: () => setGroup(view.group === 0 ? (steps[view.cursor].group || firstGroup()) : 0),
  m: () => {
    const { message, type } = steps[view.cursor];
    if (message) goTo((type === "sent" ? message.received[0] || message.lost || steps[message.sent] : steps[message.sent]).i);
  },
  "?": () => toggleKeys(),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { target } = event;
  // Controls keep the keys that are theirs.
  if (target instanceof HTMLSelectElement || (target instanceof HTMLElement && ["BUTTON", "INPUT", "SUMMARY"].includes(target.tagName) && [" ", "Enter"].includes(event.key))) return;
  if (target instanceof HTMLElement && target.closest("aside") && /^(Arrow(Up|Down)|Home|End)$/.test(event.key)) return;
  const action = Object.hasOwn(KEY_ACTIONS, event.key) ? KEY_ACTIONS[event.key] : null;
  if (!action) return;
  event.preventDefault();
  if (event.key !== " ") play(false);
  action(event);
});

function toggleKeys() {
  const isHidden = !$("keys").hidden;
  $("keys").hidden = isHidden;
  $("help").setAttribute("aria-expanded", String(!isHidden));
  if (!isHidden) $("keys").scrollIntoView({ block: "nearest" });
}

// ---- mouse, pen and finger ----

function hit(x, y) {
  let best = null, least = 6;
  for (const { x0, y0, x1, y1, i } of hits.arrows) {
    const dx = x1 - x0, dy = y1 - y0;
    const part = Math.max(0, Math.min(1, ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1)));
    const far = Math.hypot(x - x0 - part * dx, y - y0 - part * dy);
    if (far < least) { least = far; best = i; }
  }
  if (best !== null) return best;
  for (let at = hits.boxes.length - 1; at >= 0; at--) {
    const box = hits.boxes[at];
    if (x >= box.x - 1 && x <= box.x + box.width + 1 && y >= box.y && y <= box.y + box.height) return box.i;
  }
  return null;
}

let held = null;
const fingers = new Map();
const place = (event) => { const box = canvas.getBoundingClientRect(); return { x: event.clientX - box.left, y: event.clientY - box.top }; };
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  canvas.focus({ preventScroll: true });
  fingers.set(event.pointerId, place(event));
  held = { ...place(event), t0: view.t0, t1: view.t1, top: view.y, moved: false };
});
canvas.addEventListener("pointermove", (event) => {
  const { x, y } = place(event);
  if (fingers.size === 2 && fingers.has(event.pointerId)) {
    const [a, b] = [...fingers.values()], before = Math.abs(a.x - b.x);
    fingers.set(event.pointerId, { x, y });
    const [c, d] = [...fingers.values()], now = Math.abs(c.x - d.x);
    if (before > 10 && now > 10) zoom(before / now, (c.x + d.x) / 2);
    held = null;
    return;
  }
  if (held) {
    if (Math.hypot(x - held.x, y - held.y) > 4) held.moved = true;
    if (held.moved) {
      canvas.classList.add("held");
      const by = ((held.x - x) / (layout.right - layout.left)) * (held.t1 - held.t0);
      view.y = held.top + held.y - y;
      setWindow(held.t0 + by, held.t1 + by);
      hideTip();
    }
    return;
  }
  const i = hit(x, y);
  if (i !== view.hover) { view.hover = i; redraw(); }
  if (i === null) hideTip(); else showTip(steps[i], x, y);
});
const release = (event) => {
  fingers.delete(event.pointerId);
  canvas.classList.remove("held");
  if (held && !held.moved && event.type === "pointerup") {
    const { x, y } = place(event);
    const i = hit(x, y);
    if (i !== null) goTo(i);
    else if (x > layout.left) goTo(nearest(timeOf(x)));
  }
  held = null;
};
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => { view.hover = null; hideTip(); redraw(); });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const { x } = place(event);
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan((event.deltaX || event.deltaY) / 800);
  else if (event.altKey) { view.y += event.deltaY; redraw(); }
  else zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY)) / 300), x);
}, { passive: false });

function nearest(t) {
  const at = after(steps, t, (s) => s.t);
  const before = next(at, -1), behind = next(at - 1, 1);
  if (!before || !behind) return (before || behind || steps[0]).i;
  return (t - before.t <= behind.t - t ? before : behind).i;
}

function showTip(step, x, y) {
  const tip = $("tip");
  const { what, says } = tell(step);
  const when = step.message ? `${seconds(step.t)}, ${fate(step.message)}` : seconds(step.t);
  tip.replaceChildren(make("b", {}, what), says ? make("span", {}, says) : "", make("div", {}, when));
  tip.hidden = false;
  const box = $("stage").getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 14, box.width - tip.offsetWidth - 6)) + "px";
  tip.style.top = (y + 18 + tip.offsetHeight > box.height ? Math.max(4, y - tip.offsetHeight - 10) : y + 18) + "px";
}
function hideTip() { $("tip").hidden = true; }

let isScrubbing = false;
const scrub = (event) => {
  const box = overview.getBoundingClientRect();
  const t = ((event.clientX - box.left - layout.left) / (box.width - layout.left)) * run.end;
  const width = view.t1 - view.t0;
  if (width > run.end * 0.9) goTo(nearest(t)); else setWindow(t - width / 2, t + width / 2);
};
overview.addEventListener("pointerdown", (event) => { isScrubbing = true; overview.setPointerCapture(event.pointerId); scrub(event); });
overview.addEventListener("pointermove", (event) => { if (isScrubbing) scrub(event); });
overview.addEventListener("pointerup", () => { isScrubbing = false; });

// ---- buttons ----

const button = (id, action) => $(id).addEventListener("click", action);
button("back", () => { play(false); stepBy(-1); });
button("forth", () => { play(false); stepBy(1); });
button("play", () => play());
$("speed").addEventListener("change", () => { if (playing) play(true); });
button("to-election", (event) => jumpElection(event.shiftKey ? -1 : 1));
button("to-fault", (event) => jumpFault(event.shiftKey ? -1 : 1));
button("to-failure", (event) => jumpFailure(event.shiftKey ? -1 : 1));
button("in", () => zoom(0.6));
button("out", () => zoom(1 / 0.6));
button("all", whole);
button("help", toggleKeys);
button("theme", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  readStyle();
  showLegend();
  showStep();
  redraw();
}

function setUp() {
  showHead();
  const picker = $("group");
  for (const group of groups) picker.append(make("option", { value: String(group.id) }, `g${group.id}` + (run.cores > 1 ? ` (core ${group.core})` : "")));
  if (groups.length > 1) picker.append(make("option", { value: "0" }, "all"));
  picker.value = String(view.group);
  picker.addEventListener("change", () => setGroup(Number(picker.value)));
  const kinds = [...CATEGORIES.map(([id, words]) => [id, words]), ["log", "logs"], ["client", "clients"], ["node", "links"], ["pulse", "pulses"]];
  for (const [id, words] of kinds) {
    const box = make("input", { type: "checkbox", id: "show-" + id });
    box.checked = !view.off.has(id);
    const mark = make("i");
    mark.style.background = `var(--${{ log: "append", node: "soft" }[id] || id})`;
    const whole = make("label", { class: box.checked ? "" : "off" }, box, mark, words);
    box.addEventListener("change", () => {
      whole.classList.toggle("off", !box.checked);
      if (box.checked) view.off.delete(id); else view.off.add(id);
      showNear(steps[view.cursor]);
      redraw();
    });
    $("kinds").append(whole);
  }
  $("to-failure").disabled = !failures.length;
  $("to-election").disabled = !campaigns.length;
  $("to-fault").disabled = !faults.length;
  showKeys();
  showWelcome();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isBack = restore();
  if (!steps.length) {
    $("now").textContent = "Nothing happened in this run.";
    return;
  }
  if (!isBack && run.failure) view.cursor = steps.length - 1;
  else if (!isBack) view.cursor = (next(-1, 1, (s) => s.type === "role") || steps[0]).i;
  begun.at = view.cursor;
  if (!location.hash.includes("from=")) whole();
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  new ResizeObserver(redraw).observe($("stage"));
}
setUp();

// For tests, and for whoever asks in the browser's console.
window.trace = {
  run, steps, messages, pulses, campaigns, faults, operations, goTo, setGroup, setWindow,
  state: () => ({
    step: view.cursor, type: steps[view.cursor].type, at: steps[view.cursor].t, from: view.t0, to: view.t1, group: view.group,
    hits: hits.arrows.length + hits.boxes.length, arrows: hits.arrows.length, drawn: { ...drawn }, said: $("now").textContent,
    story: $("election").hidden ? "" : $("election").textContent,
    theme: document.documentElement.dataset.theme, left_out: $("notice").hidden ? "" : $("notice").textContent, isPlaying: !!playing,
  }),
  paint,
};
