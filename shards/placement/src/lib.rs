//! Placement: from a view of the cluster to tasks. One planner for the cluster, run by the leader
//! of the meta group; a pure function, so that a plan can be asked for without carrying it out.
//!
//! Map, in reading order. What goes in: [`view`] is the cluster, `settings` what an operator may
//! set. What comes out: [`task`] are steps with their reasons, and obstacles. How: [`mod@plan`] is
//! the order; `model` the view with sums and indexes; `needs` what is out of order with a range;
//! `target` where a replica should go; `scale` how evenness is reckoned; `nodes`, `leaders` and
//! `cores` what is moved for it; `reshape` splits and merges; [`mod@explain`] says why.

pub mod explain;
pub mod plan;
pub mod task;
pub mod view;

mod cores;
mod leaders;
mod model;
mod needs;
mod nodes;
mod reshape;
mod scale;
mod settings;
mod target;

pub use explain::{Explanation, explain};
pub use plan::{Plan, plan};
pub use settings::Settings;
pub use task::{Action, Blocked, Obstacle, Reason, Share, SplitAt, Task};
pub use view::{Duty, LoadSample, Node, Range, Replica, ReplicaRole, Rules, View};
