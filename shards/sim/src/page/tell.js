// Every step in plain English, and the story of an election.

const seconds = (t) => (t / 1e6).toFixed(6).replace(/(\d{3})$/, " $1") + " s";
const lasting = (us) => us < 1000 ? us + " µs" : us < 1e6 ? +(us / 1000).toPrecision(3) + " ms" : +(us / 1e6).toPrecision(3) + " s";
const n = (node) => "n" + node;

const NAMES = {
  PreVote: "asks whether it could win", PreVoteReply: "answers the question",
  Vote: "asks for the vote", VoteReply: "answers the candidate", Append: "sends entries",
  AppendReply: "acknowledges", Snapshot: "sends a checkpoint", SnapshotReply: "acknowledges the checkpoint",
  TimeoutNow: "hands over leadership", Release: "releases its follower", ReleaseReply: "knows of the release",
  ReadIndex: "asks where to read", ReadIndexReply: "says where to read",
  Rebuild: "rebuilds a lost replica",
  Absent: "has no replica", Create: "has a replica made",
};
const REASONS = {
  PreVote: "A pre-vote: before it disturbs anyone, a node asks whether it could win. It changes nothing at the others.",
  PreVoteReply: "Says yes only if it has no living leader, and the asker’s log is not behind its own.",
  Vote: "The real question. Each node gives one vote a term, and writes it to disk first. A majority makes a leader.",
  VoteReply: "One vote a term, and only for a log that is not behind: so two leaders of one term cannot be.",
  Append: "Only the leader adds to the log. An entry is committed, and so safe, once a majority has it on disk.",
  AppendReply: "Leaves only when all that it claims is on this node’s disk. The leader counts a majority of these.",
  Snapshot: "The follower lacks entries that the leader has compacted away, so it gets the state itself, in pieces.",
  SnapshotReply: "Says how much of the checkpoint is on disk.",
  TimeoutNow: "A leader asks a follower to stand at once, and gives up its own claim with it.",
  Release: "A former leader frees its followers from their promise not to vote for another, so failover need not wait.",
  ReleaseReply: "A release is repeated until it is acknowledged.",
  ReadIndex: "A follower that serves a read asks the leader how far it must have applied.",
  ReadIndexReply: "The leader answers after it has made sure that it still leads.",
  Rebuild: "A replica that lost its log leaves its group and joins it again as a new member, so that it never votes as what it was.",
  Absent: "A node that is asked as a member of a group of which it never had a replica says so.",
  Create: "It is a member, so it is to begin one, with nothing, and get the rest from the leader.",
};
const ROLE_REASONS = {
  leader: "It has a majority. It takes clients’ writes and sends them to all. It opens its term with an entry of its own.",
  candidate: "It gave its vote to itself in a new term, and asks the others for theirs.",
  "pre-candidate": "It misses its leader’s signs of life, and asks whether an election could be won. The term stays as it is.",
  follower: "It takes the leader’s entries, and promises not to vote for another while the leader is alive.",
  learner: "It receives the log but has no vote; a new member begins so.",
  outsider: "It is no member of the group, as far as its log tells.",
};

function shortOf(message) {
  const { kind, text } = message;
  const found = (pattern) => (pattern.exec(text) || [])[1];
  switch (kind) {
    case "PreVote": return "could I win?";
    case "Vote": return "vote for me?";
    case "PreVoteReply": case "VoteReply": return text;
    case "Append": {
      const count = found(/^(\d+) after/);
      return count ? "+" + count : text.startsWith("committed") ? "commit " + found(/(\d+)/) : "probe";
    }
    case "AppendReply": return text.startsWith("no") ? "no match" : "ok " + found(/up to (\d+)/);
    case "Snapshot": case "SnapshotReply": return "checkpoint";
    case "TimeoutNow": return "stand now";
    case "ReadIndex": return "read?";
    case "ReadIndexReply": return "read";
    case "Rebuild": return "rebuild";
    case "Absent": return "no replica";
    case "Create": return "make one";
    default: return "release";
  }
}
const isNo = (message) => /^no\b/.test(message.text) && message.kind.endsWith("Reply");

function fate(message) {
  const { received, lost, t } = message;
  if (received.length > 1) return `arrives ${received.length} times: the network doubled it`;
  if (received.length) return `arrives after ${lasting(received[0].t - t)}`;
  if (lost) return `is lost after ${lasting(lost.t - t)}: ${lost.why}`;
  return "has not arrived by the end of what is shown";
}
const head = (message) => `${n(message.node)} → ${n(message.to)}: ${message.kind}`;

const tellers = {
  sent: ({ message }) => ({
    what: `${n(message.node)} ${NAMES[message.kind]} (${message.kind} to ${n(message.to)})`,
    says: `“${message.text}”, in term ${message.term}`,
    more: `It ${fate(message)}.`, why: REASONS[message.kind],
  }),
  received: ({ message, node }) => message ? {
    what: `${n(node)} receives ${message.kind} of ${n(message.node)}`,
    says: `“${message.text}”, in term ${message.term}`,
    more: `Sent ${lasting(message.received[0].t - message.t)} before.`, why: REASONS[message.kind],
  } : { what: `${n(node)} receives a message sent before what is shown` },
  lost: ({ message, why }) => message ? {
    what: `${message.received.length ? "A second copy of " : ""}${message.kind} of ${n(message.node)} to ${n(message.to)} is lost`,
    says: `“${message.text}”, in term ${message.term}`, more: `Why: ${why}.`,
    why: "Messages may be lost, late or doubled at any time. Nothing is taken for done before it is acknowledged.",
  } : { what: "A message sent before what is shown is lost", more: why },
  pulse: ({ pulse: { node, to, t, end, lost, text: words } }) => ({
    what: lost === null ? `${n(to)} receives a pulse of ${n(node)}` : `A pulse of ${n(node)} to ${n(to)} is lost`,
    says: `“${words}”`,
    more: lost === null ? `Sent ${lasting(end - t)} before, at ${seconds(t)}.` : `Sent at ${seconds(t)}. Why: ${lost}.`,
    why: "One sign of life for all groups of a node. What it supports will neither stand nor vote for another until one support duration after the sender received the pulse that it names. A lease on the other side runs from when that pulse was sent.",
  }),
  role: ({ node, role, term, leader, before }) => ({
    what: before && before.role === role
      ? `${n(node)} stays ${role}, now in term ${term}` : `${n(node)} becomes ${role} in term ${term}`,
    more: (leader ? (leader === node ? "" : `It follows ${n(leader)}. `) : "It knows no leader. ") +
      (before ? `Before: ${before.role} in term ${before.term}.` : ""),
    why: ROLE_REASONS[role],
  }),
  log: ({ node, last, durable, commit, before }) => {
    const parts = [];
    const was = before || { last: 0, durable: 0, commit: 0 };
    if (last > was.last) parts.push(last - was.last > 1 ? `gets entries ${was.last + 1} to ${last}` : `gets entry ${last}`);
    if (last < was.last) parts.push(`drops entries ${last + 1} to ${was.last}, which were never committed`);
    if (durable > was.durable) parts.push(`has ${durable} on disk`);
    if (commit > was.commit) parts.push(`knows ${commit} committed`);
    return {
      what: parts.length ? `${n(node)} ${parts.join(", ")}` : `The log of ${n(node)} is ${last ? "as it was" : "empty"}`,
      says: `log up to ${last}, on disk up to ${durable}, committed up to ${commit}`,
      why: "First in the log, then on disk, then committed by a majority, then applied.",
    };
  },
  fault: ({ begins, text: words, fault }) => ({
    what: (begins ? "Fault: " : "Fault ends: ") + words,
    more: fault ? `It lasts ${lasting(fault.t1 - fault.t0)}.` : "",
    why: "The simulator does this on purpose. The cluster has to withstand it.",
  }),
  calm: () => ({ what: "All faults end", why: "From here on the cluster must recover and serve every request." }),
  started: ({ node, incarnation }) => ({
    what: `${n(node)} starts`, more: `Incarnation ${incarnation}.`,
    why: incarnation > 1 ? "It reads back what its disk holds. It has forgotten its promises, so it neither votes nor stands for a while." : "",
  }),
  ended: ({ node, why, power }) => ({
    what: `${n(node)} ${why === "ends" ? (power ? "loses its power" : "is killed") : why}`,
    more: power ? "The power fails: what was not flushed to disk is gone, and nobody is told." : "The process is gone; its machine and what it wrote remain.",
  }),
  node: ({ node, text: words }) => ({ what: `${n(node)}: ${words}` }),
  client: ({ client, phase, from, text: words, operation }) => ({
    what: `Client ${client} ${words}`,
    more: (from ? `By ${n(from)}, ` : "") + (phase !== "asks" && operation ? `${from ? "" : "After "}${lasting(operation.t1 - operation.t0)}${from ? " after it asked." : "."}` : ""),
    why: phase === "gives up" ? (words.includes("unknown") ? "No answer came in time, or the connection broke. It may have been applied, or not: both are right." : "It was surely not applied.") : "",
  }),
  asked: ({ client, node, operation }) => ({
    what: `Client ${client} sends its request to ${n(node)}`, says: operation ? operation.asks.text : "",
  }),
  failure: ({ text: words }) => ({
    what: "The run fails here", says: words,
    why: "A property that must always hold did not. Step back with ← to see what led to it.",
  }),
};
const tell = (step) => tellers[step.type](step);

const count = (list) => list.length === 1 ? n(list[0]) : list.length ? list.slice(0, -1).map(n).join(", ") + " and " + n(list[list.length - 1]) : "nobody";

// What made a node stand, as far as it can be seen.
function cause({ node, group, t0 }) {
  const handed = messages.some((m) => m.kind === "TimeoutNow" && m.to === node && m.group === group && m.received.some((s) => s.t <= t0 && t0 - s.t < 100000));
  if (handed) return { words: "The leader handed over to it." };
  let leader = null;
  for (const one of replicas.values()) {
    if (one.group !== group) continue;
    for (const span of one.spans) {
      if (span.role === "leader" && span.t0 < t0 && (!leader || span.t0 > leader.span.t0)) leader = { node: one.node, span };
    }
  }
  if (!leader) return { words: "The group has had no leader yet." };
  const name = `${n(leader.node)}, leader since term ${leader.span.term},`;
  const down = downs[leader.node - 1].find((d) => d.t0 <= t0 && t0 <= d.t1);
  if (down) return { words: `${name} is down since ${seconds(down.t0)}.`, i: down.i };
  const fault = faults.find((f) => f.t0 <= t0 && t0 <= f.t1 + 1e6 && ["network", "pause", "disk", "clock"].includes(f.kind) && (f.nodes.includes(leader.node) || f.nodes.includes(node)));
  if (fault) return { words: `${name} seemed gone. A fault at that time: ${fault.text}.`, i: fault.i };
  if (leader.node === node) return { words: "It led before, and leads no more." };
  if (leader.span.t1 < t0) return { words: `${name} stepped down at ${seconds(leader.span.t1)}.` };
  return { words: `It heard no more signs of life of ${name.slice(0, -1)}.` };
}

// An election as a list of moments.
function story(campaign) {
  const { node, group, t0, t1, won, term } = campaign;
  const lines = [];
  const why = cause(campaign);
  lines.push({ t: t0, i: why.i === undefined ? campaign.i : why.i, words: why.words });
  const from = after(messages, t0 - 1, (m) => m.t);
  const to = after(messages, t1 + 1, (m) => m.t);
  const own = messages.slice(from, to).filter((m) => m.group === group && m.category === "vote");
  for (const [question, reply, asks, gives] of [
    ["PreVote", "PreVoteReply", "asks %: could I win?", ["% would vote for it", "% would not"]],
    ["Vote", "VoteReply", "stands in term ${term}, votes for itself, and asks % for a vote.", ["% gives it the vote", "% gives no vote"]],
  ]) {
    const asked = own.filter((m) => m.kind === question && m.node === node);
    if (!asked.length) continue;
    const term = asked[asked.length - 1].term;
    const names = [...new Set(asked.map((m) => m.to))].sort();
    lines.push({ t: asked[0].t, i: asked[0].sent, words: `${n(node)} ${asks.replace("%", count(names)).replace("${term}", term)}` });
    const gone = asked.filter((m) => !m.received.length);
    if (gone.length) lines.push({ t: gone[0].end, i: (gone[0].lost || { i: gone[0].sent }).i, words: `The question to ${count([...new Set(gone.map((m) => m.to))])} does not arrive.` });
    const answered = new Set();
    for (const m of own.filter((m) => m.kind === reply && m.to === node && m.received.length && m.received[0].t <= t1)) {
      if (answered.has(m.node + m.text)) continue;
      answered.add(m.node + m.text);
      lines.push({ t: m.received[0].t, i: m.received[0].i, words: gives[m.text === "yes" ? 0 : 1].replace("%", n(m.node)) + "." });
    }
  }
  lines.sort((a, b) => a.t - b.t || a.i - b.i);
  const last = steps[campaign.last];
  lines.push({
    t: t1, i: campaign.last,
    words: won ? `That is a majority: ${n(node)} leads in term ${term}, and tells all with its first entry.`
      : last && last.type === "role" && last.leader ? `${n(node)} follows ${n(last.leader)} instead.` : `${n(node)} does not win.`,
  });
  return lines;
}
