//! What all nodes of a cluster must have alike, as one hands it to another that joins.

use oarlock_cluster::NodeEntry;

use super::{Config, KEYS, Key};

/// Beside the section `cluster`: replicas answer alike, and leases fit, only with the same of these.
const LIMITS: [&str; 3] = ["value_bytes_max", "support_duration_ms", "drift_per_mille_max"];

fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| key.section == "cluster" || LIMITS.contains(&key.name))
}

impl Config {
    /// The settings that another node of the same cluster must have, as a configuration.
    #[must_use]
    pub fn shared_settings(&self) -> String {
        let mut shared = self.clone();
        // What follows from other settings of this node is said.
        shared.cluster.cluster_id = Some(self.cluster_id());
        shared.cluster.initial_nodes = self.initial_nodes();
        shared.cluster.replication_factor = u32::try_from(self.replication_factor()).ok();
        let mut sections = toml::Table::new();
        for key in keys() {
            if let Some(value) = key.value(&shared) {
                let section =
                    sections.entry(key.section).or_insert_with(|| toml::Table::new().into());
                section
                    .as_table_mut()
                    .expect("invariant: a section")
                    .insert(key.name.to_owned(), value);
            }
        }
        sections.to_string()
    }

    /// Takes another node's shared settings for its own.
    ///
    /// # Errors
    /// What is not understood: a newer build may have said it.
    pub fn adopt(&mut self, settings: &str) -> Result<(), String> {
        let sections: toml::Table = settings.parse().map_err(|error| format!("{error}"))?;
        for (section, values) in &sections {
            for (name, value) in values.as_table().into_iter().flatten() {
                let key = keys().find(|key| key.section == section && key.name == name);
                let key = key.ok_or_else(|| format!("{section}.{name} is not known here"))?;
                key.assign(self, value).map_err(|why| format!("{section}.{name}: {why}"))?;
            }
        }
        Ok(())
    }

    /// This node as others are told of it when it joins.
    #[must_use]
    pub fn as_joining(&self) -> NodeEntry {
        NodeEntry {
            id: self.node.node_id,
            peer_address: self.network.peer_advertise.unwrap_or_else(|| self.peer_listen()),
            client_address: self.network.client_advertise.unwrap_or_else(|| self.client_listen()),
            cores: u16::try_from(self.cores().count()).unwrap_or(u16::MAX),
            core_ports: self.node.core_ports.clone(),
            zone: self.node.zone.clone(),
        }
    }

    /// The nodes to ask to be let in; none: this node was there when the cluster was formed.
    pub fn joins(&self) -> impl Iterator<Item = &str> {
        self.node.join.split(',').map(str::trim).filter(|node| !node.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use oarlock_types::NodeId;

    use super::*;

    #[test]
    fn who_adopts_the_shared_settings_is_of_the_same_cluster() {
        let mut config = Config::default();
        config.node.node_id = NodeId(1);
        config.cluster.initial_nodes = (1..=3).map(super::super::cluster::tests::node).collect();
        config.cluster.initial_ranges = Some(7);
        config.limits.support_duration_ms *= 2;
        config.limits.clients_max = 7;
        let mut other = Config::default();
        other.node.node_id = NodeId(9);
        other.adopt(&config.shared_settings()).unwrap();
        assert_eq!(other.cluster_id(), config.cluster_id());
        assert_eq!(other.initial_nodes(), config.initial_nodes());
        assert_eq!(other.split_points(), config.split_points());
        assert_eq!(other.replication_factor(), config.replication_factor());
        assert_eq!(other.limits.support_duration_ms, config.limits.support_duration_ms);
        assert_eq!(other.node.node_id, NodeId(9));
        assert_ne!(other.limits.clients_max, 7, "what is the node's own stays so");
    }

    #[test]
    fn a_node_alone_shares_itself_and_its_one_replica() {
        let mut config = Config::default();
        config.node.node_id = NodeId(1);
        let mut other = Config::default();
        other.adopt(&config.shared_settings()).unwrap();
        assert_eq!(other.cluster.initial_nodes, config.initial_nodes());
        assert_eq!((other.cluster_id(), other.replication_factor()), (config.cluster_id(), 1));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut config = Config::default();
        let why = |config: &mut Config, text: &str| config.adopt(text).unwrap_err();
        assert!(
            why(&mut config, "[cluster]\nmoons = 3").contains("cluster.moons is not known here")
        );
        assert!(why(&mut config, "[limits]\nclients_max = 3").contains("limits.clients_max"));
        assert!(why(&mut config, "[cluster]\ninitial_ranges = 0").contains("out of range"));
        assert!(!why(&mut config, "[cluster").is_empty());
    }
}
