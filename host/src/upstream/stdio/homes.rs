//! Names for directories of children that are nobody else's, whenever that was: the id of a process comes again, in a container
//! with each start.

use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells runs of the gateway apart: a hasher is seeded by the operating system.
static RUN: LazyLock<String> = LazyLock::new(|| format!("{:016x}-", RandomState::new().hash_one(std::process::id())));
/// And what this run has made.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// A place in this directory that nobody has had.
pub(in crate::upstream) fn fresh(dir: &Path) -> PathBuf {
    dir.join(format!("{}{}", *RUN, NUMBERS.fetch_add(1, Ordering::Relaxed)))
}

/// Whether a name was made by this run of the gateway.
pub(super) fn is_of_this_run(name: &str) -> bool {
    name.starts_with(RUN.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_nobodys_that_an_earlier_process_with_this_id_has_left_behind() {
        let (one, other) = (fresh(Path::new("/x")), fresh(Path::new("/x")));
        assert_ne!(one, other);
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(is_of_this_run(&name(&one)) && is_of_this_run(&name(&other)));
        assert!(!is_of_this_run(&format!("{}-1", std::process::id())) && !is_of_this_run("0123456789abcdef-1"));
    }
}
