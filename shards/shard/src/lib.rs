//! One core: its groups, pulses, pending replies and admission.

pub mod pulse;
pub mod support_changes;
pub mod support_table;
