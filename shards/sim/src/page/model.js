// The run as the page reads it: steps (one for each event), messages from send to receive, pulses, what each
// replica was and had over time, faults, campaigns and clients' operations.

const run = JSON.parse(document.getElementById("data").textContent);
const nodes = Array.from({ length: run.nodes }, (_, i) => i + 1);
const text = (place) => run.texts[place];

const CATEGORIES = [
  ["vote", "votes", ["PreVote", "PreVoteReply", "Vote", "VoteReply"]],
  ["append", "entries", ["Append"]],
  ["reply", "entries’ answers", ["AppendReply"]],
  ["snapshot", "snapshots", ["Snapshot", "SnapshotReply"]],
  ["read", "reads", ["ReadIndex", "ReadIndexReply"]],
  ["handover", "handovers", ["TimeoutNow", "Release", "ReleaseReply", "Rebuild", "Absent", "Create"]],
];
const categoryOf = {};
for (const [id, , kinds] of CATEGORIES) for (const kind of kinds) categoryOf[kind] = id;

const steps = [];
const messages = []; // in order of sending
const byNumber = new Map();
const pulses = []; // in order of their ends
const replicas = new Map(); // "node/group": { node, group, spans, logs }
const downs = nodes.map(() => []); // per node: { t0, t1, why, power, i }
const faults = [];
const campaigns = [];
const operations = []; // clients'
const groups = run.groups.map(([id, core]) => ({ id, core }));

function replica(node, group) {
  const key = node + "/" + group;
  let found = replicas.get(key);
  if (!found) replicas.set(key, (found = { node, group, spans: [], logs: [] }));
  return found;
}

// The first place in a sorted list at which `of(item) > value`.
function after(list, value, of) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (of(list[middle]) > value) high = middle; else low = middle + 1;
  }
  return low;
}
const spanAt = (spans, t) => {
  const at = after(spans, t, (span) => span.t0) - 1;
  return at >= 0 && t < spans[at].t1 ? spans[at] : null;
};
const logAt = (logs, t) => {
  const at = after(logs, t, (log) => log.t) - 1;
  return at >= 0 ? logs[at] : null;
};

function close(list, t) {
  const last = list[list.length - 1];
  if (last && last.t1 === Infinity) last.t1 = t;
  return last;
}

const openFaults = new Map();
const openOperations = new Map();

const readers = {
  sent(step, [number, node, core, to, group, term, kind, words]) {
    kind = text(kind);
    const message = {
      number, node, core, to, group, term, kind, text: text(words), t: step.t, sent: step.i,
      received: [], lost: null, category: categoryOf[kind],
    };
    messages.push(message);
    byNumber.set(number, message);
    Object.assign(step, { node, group, message });
  },
  received(step, [number, node]) {
    const message = byNumber.get(number);
    if (message) message.received.push(step);
    Object.assign(step, { node, group: message && message.group, message });
  },
  lost(step, [number, why]) {
    const message = byNumber.get(number);
    step.why = text(why);
    if (message) message.lost = step;
    Object.assign(step, { node: message && message.to, group: message && message.group, message });
  },
  pulse(step, [from, to, sent, words, why]) {
    const pulse = { node: from, to, t: sent, end: step.t, text: text(words), lost: why === null ? null : text(why), i: step.i };
    pulses.push(pulse);
    Object.assign(step, { node: pulse.lost === null ? to : from, pulse });
  },
  role(step, [node, group, role, term, leader]) {
    Object.assign(step, { node, group, role: text(role), term, leader });
    const { spans } = replica(node, group);
    const before = close(spans, step.t);
    step.before = before && before.t1 === step.t ? before : null;
    spans.push({ t0: step.t, t1: Infinity, role: step.role, term, leader, i: step.i });
  },
  log(step, [node, group, last, durable, commit]) {
    const { logs } = replica(node, group);
    step.before = logs[logs.length - 1];
    Object.assign(step, { node, group, last, durable, commit });
    logs.push(step);
  },
  fault(step, [number, begins, words, kind, touched]) {
    Object.assign(step, { number, begins, text: text(words), kind, nodes: touched });
    if (begins) {
      const fault = { number, t0: step.t, t1: run.end, text: step.text, kind, nodes: touched, i: step.i };
      step.fault = fault;
      faults.push(fault);
      openFaults.set(number, fault);
    } else if (openFaults.has(number)) {
      step.fault = openFaults.get(number);
      step.fault.t1 = step.t;
      openFaults.delete(number);
    }
  },
  calm(step) {
    for (const fault of openFaults.values()) fault.t1 = step.t;
    openFaults.clear();
  },
  started(step, [node, incarnation]) {
    Object.assign(step, { node, incarnation });
    close(downs[node - 1], step.t);
  },
  ended(step, [node, why, power]) {
    Object.assign(step, { node, why: text(why), power });
    downs[node - 1].push({ t0: step.t, t1: Infinity, why: step.why, power, i: step.i });
    for (const one of replicas.values()) if (one.node === node) close(one.spans, step.t);
  },
  node(step, [node, words]) {
    Object.assign(step, { node, text: text(words) });
  },
  client(step, [client, group, phase, from, words]) {
    Object.assign(step, { client, group, phase, from, text: text(words) });
    if (phase === "asks") {
      const operation = { client, group, t0: step.t, t1: run.end, asks: step, ends: null, tries: [] };
      operations.push(operation);
      openOperations.set(client, operation);
    }
    step.operation = openOperations.get(client);
    if (phase !== "asks" && step.operation) {
      step.operation.t1 = step.t;
      step.operation.ends = step;
      openOperations.delete(client);
    }
  },
  asked(step, [client, group, to]) {
    Object.assign(step, { client, group, node: to });
    step.operation = openOperations.get(client);
    if (step.operation) step.operation.tries.push(step);
  },
};

run.events.forEach(([t, type, ...rest], i) => {
  const step = { i, t, type };
  steps.push(step);
  readers[type](step, rest);
});
delete run.events;
// The stretch in which messages, logs and clients are here, too.
const isCut = run.full_from !== null && run.all_events > steps.length;
const fullFrom = isCut && run.is_cut_before ? run.full_from : 0;
const fullTo = isCut && run.is_cut_behind ? run.full_to : run.end;
for (const operation of operations) if (!operation.ends) operation.t1 = fullTo;
if (run.failure) steps.push({ i: steps.length, t: run.end, type: "failure", text: run.failure });
for (const one of replicas.values()) close(one.spans, run.end);
for (const list of downs) close(list, run.end);
for (const message of messages) {
  const { received, lost } = message;
  message.end = received.length ? received[received.length - 1].t : lost ? lost.t : message.t;
}

// Messages that are under way for long, found by the slice of time that they touch.
const SLICES = 512;
const slice = Math.max(1, run.end / SLICES);
const long = Array.from({ length: SLICES + 1 }, () => []);
messages.forEach((message, place) => {
  if (message.end - message.t > slice) {
    for (let at = Math.floor(message.t / slice) + 1; at <= Math.min(SLICES, message.end / slice); at++) {
      long[at].push(place);
    }
  }
});
// Places of all messages that are under way at some time between the two.
function underWay(t0, t1) {
  const first = after(messages, t0 - slice, (m) => m.t), end = after(messages, t1, (m) => m.t);
  const places = long[Math.max(0, Math.min(SLICES, Math.floor(t0 / slice)))].filter((place) => place < first);
  for (let place = first; place < end; place++) if (messages[place].end >= t0) places.push(place);
  return places;
}

// Pulses that are under way at some time between the two.
const longest = pulses.reduce((most, pulse) => Math.max(most, pulse.end - pulse.t), 0);
function beating(t0, t1) {
  const first = after(pulses, t0 - 1, (p) => p.end), end = after(pulses, t1 + longest, (p) => p.end);
  return pulses.slice(first, end).filter((pulse) => pulse.t <= t1);
}

// Campaigns: from the first question to the end of it, won or not.
for (const { node, group, spans } of replicas.values()) {
  let open = null;
  const end = (t, won, span) => {
    if (open) campaigns.push(Object.assign(open, { t1: t, won, term: won ? span.term : open.term, last: span ? span.i : open.i }));
    open = null;
  };
  for (const span of spans) {
    if (span.role === "pre-candidate" || span.role === "candidate") {
      if (open && span.role === "pre-candidate") end(span.t0, false, span);
      open = open || { node, group, t0: span.t0, i: span.i };
      open.term = span.term;
      open.stood = open.stood || span.role === "candidate";
      if (span.t1 < run.end && !spans.some((s) => s.t0 === span.t1)) end(span.t1, false, null);
    } else if (span.role === "leader") {
      open = open || { node, group, t0: span.t0, i: span.i, term: span.term };
      end(span.t0, true, span);
    } else end(span.t0, false, span);
  }
  end(run.end, false, null);
}
campaigns.sort((a, b) => a.t0 - b.t0 || a.i - b.i);
const campaignOf = (step) => campaigns.find((c) => c.node === step.node && c.group === step.group && c.i <= step.i && step.i <= c.last);

const failures = steps.filter((step) => step.type === "failure" || (step.type === "client" && step.phase === "gives up"));

// The group that tells most: the one of the first lost operation if the run failed, else the busiest.
function firstGroup() {
  const named = run.failure && /\bg(\d+)\b/.exec(run.failure);
  if (named && groups.some((g) => g.id === Number(named[1]))) return Number(named[1]);
  const count = new Map();
  for (const campaign of campaigns) count.set(campaign.group, (count.get(campaign.group) || 0) + 50);
  for (const message of messages) count.set(message.group, (count.get(message.group) || 0) + 1);
  return groups.reduce((best, g) => ((count.get(g.id) || 0) > (count.get(best) || 0) ? g.id : best), groups[0].id);
}
