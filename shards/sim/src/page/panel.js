// What stands beside the diagram: the step in words, the state at its time, the story of an election,
// the steps around it, and how to read all this. Texts of the run are set as text, never as HTML.

const $ = (id) => document.getElementById(id);
function make(tag, props = {}, ...children) {
  const { class: name, on, ...rest } = props;
  const element = document.createElement(tag);
  if (name) element.className = name;
  for (const [key, value] of Object.entries(rest)) element.setAttribute(key, value);
  if (on) element.addEventListener("click", on);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const ROLE_SHORT = { leader: "leader", follower: "follower", candidate: "candidate", "pre-candidate": "pre-candidate", learner: "learner", outsider: "no member" };

const begun = { at: null };
function showStep() {
  const step = steps[view.cursor];
  if (begun.at !== null && begun.at !== view.cursor) $("welcome").hidden = true;
  const { what, says, more, why } = tell(step);
  const group = step.group ? `group ${step.group}` : "all groups";
  $("now").replaceChildren(
    make("p", { class: "when" }, `${seconds(step.t)} · ${group} · step ${step.i + 1} of ${steps.length}`),
    make("p", { class: "what" }, what),
    says ? make("p", { class: "says" }, says) : "",
    more ? make("p", {}, more) : "",
    why ? make("p", { class: "why" }, why) : "",
  );
  const actions = make("div", { class: "actions" });
  const { message } = step;
  if (message) {
    const other = step.type === "sent" ? (message.received[0] || message.lost) : steps[message.sent];
    if (other) actions.append(make("button", { on: () => goTo(other.i), title: "m" }, step.type === "sent" ? "To its arrival " : "To its sending ", make("kbd", {}, "m")));
  }
  if (step.operation) {
    const { asks, ends } = step.operation;
    if (step !== asks) actions.append(make("button", { on: () => goTo(asks.i) }, "To the question"));
    if (ends && step !== ends) actions.append(make("button", { on: () => goTo(ends.i) }, "To the answer"));
  }
  if (step.fault) {
    const end = steps.find((s) => s.fault === step.fault && s.begins !== step.begins);
    if (end) actions.append(make("button", { on: () => goTo(end.i) }, step.begins ? "To its end" : "To its begin"));
  }
  $("more").replaceChildren(actions.children.length ? actions : "");
  showElection(step);
  showState(step);
  showNear(step);
}

let told = null; // the election whose story is shown
function showElection(step) {
  const own = step.type === "role" ? campaignOf(step) : null;
  const voting = step.message && step.message.category === "vote"
    ? campaigns.find((c) => c.group === step.group && c.t0 <= step.message.t && step.message.t <= c.t1 && [step.message.node, step.message.to].includes(c.node)) : null;
  if (own || voting) told = own || voting;
  else if (told && (step.t < told.t0 - (told.t1 - told.t0) || step.t > told.t1 + (told.t1 - told.t0) + 1000 || !isGroupShown(told.group))) told = null;
  $("election").hidden = !told;
  if (!told) return;
  const list = make("ol", { class: "story" });
  for (const { t, i, words } of story(told)) {
    list.append(make("li", {}, make("button", { on: () => goTo(i) }, make("span", { class: "t" }, "+" + lasting(Math.max(0, t - told.t0))), make("span", { class: "x" }, words))));
  }
  const place = campaigns.filter((c) => c.group === told.group).indexOf(told) + 1;
  $("election").replaceChildren(
    make("h2", {}, `${told.won ? "Election" : "An election that fails"}: ${place} of group ${told.group}`),
    make("p", { class: "when" }, `begins at ${seconds(told.t0)}, takes ${lasting(told.t1 - told.t0)}`), list);
}

function showState(step) {
  const group = view.group || step.group || firstGroup();
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...["node", "role", "term", "log", "disk", "committed"].map((h) => make("th", { scope: "col" }, h)))));
  const body = make("tbody");
  for (const node of nodes) {
    const found = replicas.get(node + "/" + group);
    const down = downs[node - 1].find((d) => d.t0 <= step.t && step.t < d.t1);
    if (!found && !down) continue;
    const span = found && spanAt(found.spans, step.t), log = found && logAt(found.logs, step.t);
    if (down || !span) {
      body.append(make("tr", {}, make("td", {}, n(node)), make("td", { colspan: "5" }, down ? "down" : "no replica")));
      continue;
    }
    const colour = make("i", { class: "term" });
    colour.style.background = termColour(span.term, span.role === "leader" ? "leader" : "follower");
    colour.style.borderColor = termColour(span.term, "edge");
    const role = make(span.role === "leader" ? "b" : "span", {}, ROLE_SHORT[span.role]);
    body.append(make("tr", {}, make("td", {}, n(node)), make("td", {}, role), make("td", {}, colour, String(span.term)),
      ...[log && log.last, log && log.durable, log && log.commit].map((v) => make("td", {}, v === undefined || v === null ? "–" : String(v)))));
  }
  table.append(body);
  $("state").replaceChildren(make("h2", {}, `Group ${group} at this moment`), table);
}

function showNear(step) {
  const list = make("ol");
  const rows = [step];
  for (let at = step; rows.length < 5 && (at = next(at.i, -1)); ) rows.unshift(at);
  for (let at = step; rows.length < 11 && (at = next(at.i, 1)); ) rows.push(at);
  for (const row of rows) {
    const button = make("button", { on: () => goTo(row.i) },
      make("span", { class: "t" }, (row.t >= step.t ? "+" : "−") + lasting(Math.abs(row.t - step.t))), make("span", { class: "x" }, tell(row).what));
    if (row === step) button.setAttribute("aria-current", "step");
    list.append(make("li", {}, button));
  }
  $("near").replaceChildren(make("h2", {}, "Steps around it"), list);
}

// ---- what does not change ----

function swatch(paintIt) {
  const element = make("canvas", { width: "124", height: "44", "aria-hidden": "true" });
  element.style.width = "62px";
  element.style.height = "22px";
  const context = element.getContext("2d");
  context.scale(2, 2);
  paintIt(context);
  return element;
}

function swatchRole(role) {
  return swatch((c) => {
    const thin = role === "learner", height = thin ? 8 : 16, y = 11 - height / 2;
    c.fillStyle = termColour(3, role === "leader" ? "leader" : "follower");
    c.fillRect(1, y, 60, height);
    c.strokeStyle = termColour(3, role === "candidate" ? "leader" : "edge");
    c.lineWidth = 1.4;
    if (role.endsWith("candidate")) {
      c.save();
      c.beginPath(); c.rect(1, y, 60, height); c.clip();
      const gap = role === "candidate" ? 6 : 10;
      c.beginPath();
      for (let x = -16; x < 64; x += gap) { c.moveTo(x, y + height); c.lineTo(x + height, y); }
      c.stroke();
      c.restore();
    }
    c.setLineDash(thin ? [3, 3] : []);
    c.lineWidth = 1;
    if (role !== "leader") c.strokeRect(1.5, y + 0.5, 59, height - 1);
  });
}
const swatchTerms = () => swatch((c) => [1, 2, 3, 4].forEach((term, at) => { c.fillStyle = termColour(term, "leader"); c.fillRect(1 + at * 15, 4, 14, 14); }));
const swatchArrow = (kind) => swatch((c) => {
  c.strokeStyle = c.fillStyle = { lost: style.bad, pulse: style.pulse }[kind] || style.append;
  c.lineWidth = 1.6;
  if (kind === "lost") c.setLineDash([5, 4]);
  if (kind === "pulse") c.setLineDash([1.5, 3]);
  c.beginPath(); c.moveTo(4, 3); c.lineTo(52, 18); c.stroke();
  c.setLineDash([]);
  c.beginPath();
  if (kind === "pulse") { c.arc(55, 19, 2.4, 0, 7); c.fill(); }
  else if (kind === "lost") { c.moveTo(48, 14); c.lineTo(56, 21); c.moveTo(56, 14); c.lineTo(48, 21); c.stroke(); }
  else { c.moveTo(57, 19.5); c.lineTo(48, 20); c.lineTo(51, 13.5); c.closePath(); kind === "no" ? c.stroke() : c.fill(); }
});
const swatchLog = () => swatch((c) => {
  c.fillStyle = c.strokeStyle = style.append;
  for (const [x, end, disk, commit] of [[1, 15, 18, 18], [15, 30, 13, 18], [30, 45, 9, 13], [45, 61, 9, 9]]) {
    c.globalAlpha = 0.16; c.fillRect(x, disk, end - x, 22 - disk);
    c.globalAlpha = 0.4; c.fillRect(x, commit, end - x, 22 - commit);
    c.globalAlpha = 1;
    const top = Math.min(disk, 9 + (x < 15 ? 9 : x < 30 ? 4 : 0));
    c.fillRect(x, top - 1, end - x, 1.4);
  }
});
const swatchMany = () => swatch((c) => { c.fillStyle = style.reply; [5, 9, 3, 12, 7, 4, 10, 14, 6, 3, 8, 5].forEach((h, at) => c.fillRect(1 + at * 5, 19 - h, 3, h)); });
const swatchDown = () => swatch((c) => {
  c.strokeStyle = style.crash; c.globalAlpha = 0.35;
  c.save(); c.beginPath(); c.rect(8, 2, 53, 18); c.clip(); c.beginPath();
  for (let x = -20; x < 64; x += 7) { c.moveTo(x, 22); c.lineTo(x + 22, 0); }
  c.stroke(); c.restore();
  c.globalAlpha = 1; c.lineWidth = 2; c.beginPath(); c.moveTo(4, 6); c.lineTo(14, 16); c.moveTo(14, 6); c.lineTo(4, 16); c.stroke();
});
const swatchFault = () => swatch((c) => [["network", 0], ["crash", 12], ["pause", 24], ["disk", 36], ["clock", 48]].forEach(([kind, x]) => {
  c.fillStyle = style[kind]; c.globalAlpha = 0.3; c.fillRect(1 + x, 4, 11, 14); c.globalAlpha = 1; c.fillRect(1 + x, 4, 2, 14);
}));
const swatchClient = () => swatch((c) => { c.fillStyle = style.good; c.fillRect(1, 4, 36, 6); c.fillStyle = style.bad; c.fillRect(24, 13, 37, 6); });

function showLegend() {
  const key = make("div", { class: "key" });
  const line = (picture, words) => key.append(picture, make("span", {}, words));
  line(swatchRole("leader"), "leader; ★ where it wins");
  line(swatchRole("follower"), "follower");
  line(swatchRole("pre-candidate"), "pre-candidate: asks whether it could win");
  line(swatchRole("candidate"), "candidate: asks for votes");
  line(swatchRole("learner"), "learner: gets the log, has no vote");
  line(swatchTerms(), "each term has its own colour");
  line(swatchArrow("yes"), "a message, from its sending to its arrival; steep is fast");
  line(swatchArrow("no"), "an answer that says no: open head");
  line(swatchArrow("lost"), "a message that is lost");
  line(swatchArrow("pulse"), "a pulse, a node’s sign of life, when “pulses” is switched on");
  line(swatchLog(), "the log: its end (line), on disk (light), committed (full)");
  line(swatchMany(), "many messages: how many leave a node; zoom in for arrows");
  line(swatchDown(), "a node that is down");
  line(swatchFault(), "faults: network, crash, pause, disk, clock");
  line(swatchClient(), "a client’s operation: answered, or given up");
  const raft = make("details", {}, make("summary", {}, make("h2", {}, "Raft in short")));
  for (const words of [
    "A group of nodes keeps one log of commands, the same on each, though nodes and networks fail.",
    "Time goes in terms. Each has at most one leader: who gets the votes of a majority, one vote a node and term.",
    "Clients ask the leader. It adds their writes to its log and sends them to the followers. What a majority has on disk is committed and is never lost.",
    "Leaders show signs of life all the time, from node to node in one beat for all groups: pulses, which are drawn when they are switched on. A follower that misses them asks the others, and may stand for election.",
    "Any two majorities share a node. So a new leader has heard of all that was committed, and two leaders cannot both commit.",
  ]) raft.append(make("p", {}, words));
  raft.open = !run.failure;
  $("legend").replaceChildren(make("h2", {}, "How to read this"), key, raft);
}

const KEYS = [
  ["← →", "one step back or on"], ["Shift ← →", "move the view"], ["space", "play and stop"], ["+ −", "zoom in and out"],
  ["↑ ↓", "move up and down when lanes do not fit"],
  ["e  E", "next and last election"], ["f  F", "next and last fault"], ["x  X", "next and last failure"],
  ["m", "to the other end of a message"], ["p", "pulses, or none"], ["g  G", "next and last group"], ["a", "all groups, or one"],
  ["0", "the whole run"], ["Home End", "first and last step"], ["?", "these keys"],
];
function showKeys() {
  const list = make("dl", { class: "keys" });
  for (const [key, words] of KEYS) list.append(make("dt", {}, ...key.split(" ").filter(Boolean).map((k) => [make("kbd", {}, k), " "]).flat()), make("dd", {}, words));
  $("keys").replaceChildren(make("h2", {}, "Keys"), list, make("p", { class: "why" }, "Mouse: the wheel zooms, dragging moves, a click selects. Keys work while the diagram has the focus, or nothing has."));
}

function showWelcome() {
  const start = make("div", { class: "actions" });
  if (run.failure) start.append(make("button", { class: "first", on: () => jumpFailure(1) }, "To the failure"));
  if (campaigns.length) start.append(make("button", { class: run.failure ? "" : "first", on: () => { view.cursor = 0; jumpElection(1); } }, "Show me the first election"));
  if (faults.length) start.append(make("button", { on: () => { view.cursor = 0; jumpFault(1); } }, "The first fault"));
  $("welcome").replaceChildren(
    make("h2", {}, "A run of the simulator"),
    make("p", {}, "Time goes from left to right. Each node has a lane; a bar in it says what the node is, and arrows are messages between nodes. Below each bar the node’s log grows."), start);
}

function showHead() {
  $("seed").textContent = "seed " + run.seed;
  document.title = `Oarlock: seed ${run.seed}` + (run.failure ? " fails" : "");
  const verdict = $("verdict");
  verdict.className = run.failure ? "bad" : "good";
  verdict.textContent = run.failure ? "✗ fails: " + run.failure : "✓ all properties hold";
  const many = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  $("facts").textContent = [many(run.nodes, "node"), run.cores > 1 ? many(run.cores, "core") + " each" : "", many(run.all_groups, "group"),
    many(faults.length, "fault"), many(campaigns.filter((c) => c.won).length, "election"), lasting(run.end)].filter(Boolean).join(" · ");
  $("facts").title = run.command;
  const left = run.all_events - (steps.length - (run.failure ? 1 : 0));
  if (left > 0) {
    const part = run.full_from === null ? "" : ` Messages, logs and clients are here from ${seconds(run.full_from)} to ${seconds(run.full_to)}`;
    const which = groups.length < run.all_groups ? `, of ${groups.length} of ${run.all_groups} groups` : "";
    $("notice").textContent = `${left.toLocaleString("en")} of ${run.all_events.toLocaleString("en")} events are left out.${part}${which}. ` +
      (run.pulses ? `Pulses are here from ${seconds(run.pulses[0])} to ${seconds(run.pulses[1])}. ` : "") +
      "Roles, faults, starts and ends are here for the whole run. For another part: --trace-from, --trace-to (seconds), --trace-group.";
    $("notice").hidden = false;
  }
}
