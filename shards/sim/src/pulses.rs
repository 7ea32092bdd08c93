//! Pulses as datagrams: lost, doubled, late, in any order. Mirrors production's pulse thread: when it
//! sends, and what waits in its socket while its process stands still.

use oarlock_codec::frame;
use oarlock_shard::pulse::CoreProgress;
use oarlock_types::Pulse;

use crate::node::CLUSTER;
use crate::trace::What;
use crate::words;
use crate::world::{Event, World};

const DATAGRAM_BYTES_MAX: usize = 16 << 10;
/// Datagrams that a socket holds while its process stands still.
const SOCKET_PULSES_MAX: usize = 200;

/// A pulse as it goes over the network.
#[derive(Clone, Debug)]
pub(crate) struct Datagram {
    sent_us: u64,
    bytes: Vec<u8>,
}

impl World {
    pub(crate) fn pulse_due(&mut self, n: usize) {
        let (now, life) = (self.now, self.nodes[n].life);
        let node = &mut self.nodes[n];
        if !node.runs() {
            return; // it goes on when the process does
        }
        let mono = node.clock.mono(now);
        let Some(process) = &mut node.process else { return };
        let progress: Vec<CoreProgress> = process.cores.iter().map(|core| core.progress).collect();
        let mut due = Vec::new();
        process.agent.tick(mono, &process.table, &progress, &mut due);
        let next = node.clock.real(process.agent.next_due()).max(now + 1);
        self.at(next, Event::PulseDue { n, life });
        for pulse in due {
            self.send_pulse(&pulse);
        }
    }

    fn send_pulse(&mut self, pulse: &Pulse) {
        debug_assert_eq!(pulse.cluster, CLUSTER);
        let (from, to, sent_us) = (pulse.from, pulse.to, self.now);
        if self.are_pulses_blocked(from, to) {
            self.tell_pulse(sent_us, pulse, Some("pulses are cut on this way"));
            return;
        }
        if self.net_random.per_mille(self.weather.pulse_loss_per_mille) {
            self.tell_pulse(sent_us, pulse, Some("the network loses it"));
            return;
        }
        let mut bytes = Vec::new();
        frame::encode(pulse, &mut bytes);
        let copies = 1 + u64::from(self.net_random.per_mille(self.weather.pulse_twice_per_mille));
        let place = self.place(to);
        for _ in 0..copies {
            let at = self.now + self.way_us(from, to);
            let pulse = Datagram { sent_us, bytes: bytes.clone() };
            self.at(at, Event::Pulse { to: place, pulse });
        }
    }

    pub(crate) fn pulse_arrives(&mut self, n: usize, datagram: Datagram) {
        let Ok(pulse) = frame::decode_datagram::<Pulse>(&datagram.bytes, DATAGRAM_BYTES_MAX) else {
            return;
        };
        let sent_us = datagram.sent_us;
        let now = self.now;
        let node = &mut self.nodes[n];
        let is_paused = node.pauses > 0;
        let mono = node.clock.mono(now);
        let lost = match &mut node.process {
            None => Some("the node is down"),
            Some(process) if is_paused && process.pulses.len() >= SOCKET_PULSES_MAX => {
                Some("the socket of a process that stands still is full")
            }
            Some(process) if is_paused => {
                process.pulses.push(datagram);
                return;
            }
            Some(process) => {
                process.agent.on_pulse(mono, &process.table, &pulse);
                None
            }
        };
        self.tell_pulse(sent_us, &pulse, lost);
    }

    /// A process goes on that stood still: it reads what waits in its socket.
    pub(crate) fn read_waiting_pulses(&mut self, n: usize) {
        let Some(process) = &mut self.nodes[n].process else { return };
        for datagram in std::mem::take(&mut process.pulses) {
            self.pulse_arrives(n, datagram);
        }
    }

    fn tell_pulse(&mut self, sent_us: u64, pulse: &Pulse, lost: Option<&'static str>) {
        let (from, to) = (pulse.from, pulse.to);
        let what = || What::Pulse { from, to, sent_us, text: words::pulse(pulse), lost };
        self.trace.push(self.now, what);
    }
}
