//! The policies of the configuration file, where others are put together with them: read anew, or left as they are.
//!
//! Files change before anybody wants them in force, and break. Whoever reloads reads them; whoever changes something else
//! leaves what they have brought into force alone.

use std::sync::Arc;

use super::bindings::{BoundPolicy, PolicySet};
use crate::config::{Binding, PolicySettings};
use crate::identity::key::ManagedBy;
use crate::ids::BindingName;
use crate::oci::Reference;

/// Where the policies of the file come from.
#[derive(Clone, Debug)]
pub enum OfFile {
    /// Modules, signatures and cases are read, wherever they are.
    Read,
    /// They stay what they are in this set, whatever has become of the files since, and so does what holds for all.
    InForce(Arc<PolicySet>),
}

impl OfFile {
    /// What the file says of policies. Where they stay what they are, the settings stay that they were loaded with; those
    /// are left that count for whoever loads more. Names move between the file and the store, and a set that was gone back
    /// to has them where they were: whose a name is now is what counts.
    pub fn settings(&self, file: &PolicySettings, is_stored: impl Fn(&BindingName) -> bool) -> PolicySettings {
        match self {
            Self::Read => file.clone(),
            Self::InForce(set) => {
                let of_file = |bound: &&BoundPolicy| {
                    let is_left = bound.binding().managed_by == ManagedBy::File && !is_stored(bound.name());
                    is_left || file.binds(bound.name())
                };
                let bindings = set.bindings().iter().filter(of_file).map(|bound| in_file(bound.binding()));
                PolicySettings {
                    when_all_abstain: set.when_all_abstain,
                    record: set.record,
                    sets: set.sets.clone(),
                    bindings: bindings.collect(),
                    ..file.clone()
                }
            }
        }
    }

    /// The modules that have to be pulled. Bindings of the store name no registry.
    pub fn references(&self, settings: &PolicySettings) -> Vec<Reference> {
        match self {
            Self::Read => settings.references().collect(),
            Self::InForce(_) => Vec::new(),
        }
    }

    /// The policy of this binding, if it stays what it is. How it has fared is forgotten.
    pub(super) fn standing(&self, binding: &Binding) -> Option<BoundPolicy> {
        let Self::InForce(set) = self else { return None };
        let is_it = |bound: &&BoundPolicy| in_file(bound.binding()) == *binding;
        set.bindings().iter().find(is_it).map(|bound| bound.bound_by(binding.clone()))
    }
}

/// The same binding, as one of the file.
fn in_file(binding: &Binding) -> Binding {
    Binding { managed_by: ManagedBy::File, ..binding.clone() }
}
