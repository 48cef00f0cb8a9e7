//! The data directory: can it be written, is there room, and does its filesystem keep what is written?

use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statfs};

use super::Subject;
use super::check::Check;
use crate::config::StoreUrl;

const AREA: &str = "disk";
const MEBIBYTE: u64 = 1 << 20;
/// Free space that is little, and that is too little.
const LITTLE: u64 = 1024 * MEBIBYTE;
const TOO_LITTLE: u64 = 64 * MEBIBYTE;

#[expect(clippy::unused_async, reason = "all areas are looked at alike")]
pub(super) async fn look(subject: &Subject) -> Vec<Check> {
    let mut places = vec![subject.data_dir()];
    if let StoreUrl::Redb(path) = &subject.config.store
        && let Some(parent) = path.parent()
        && parent != subject.data_dir()
    {
        places.push(parent.to_owned());
    }
    places.iter().flat_map(|place| one(place)).collect()
}

fn one(place: &Path) -> Vec<Check> {
    let there = nearest(place);
    let told = place.display();
    if let Err(error) = access(&there, Access::WRITE_OK | Access::EXEC_OK) {
        let finding = format!("{told} cannot be written: {error}");
        return vec![Check::problem(AREA, finding, "give it to the user that the gateway runs as (chown)")];
    }
    let Ok(about) = statfs(&there) else {
        let mend = "look at the mount by hand";
        return vec![Check::warning(AREA, format!("nothing can be told of the filesystem of {told}"), mend)];
    };
    let free = about.f_bavail.saturating_mul(u64::try_from(about.f_bsize).unwrap_or_default());
    let made = if there == place { "" } else { " (the first start makes it)" };
    vec![space(&format!("{told}{made}"), free), kind(&told.to_string(), about.f_type)]
}

/// The place itself, or the nearest one above it that is there.
fn nearest(place: &Path) -> PathBuf {
    place.ancestors().find(|place| place.exists()).map_or_else(|| PathBuf::from("."), Path::to_owned)
}

fn space(place: &str, free: u64) -> Check {
    let finding = format!("{} MiB are free for {place}", free / MEBIBYTE);
    let mend = "make room, or keep less: store.decision_space, store.recording_space, store.audit_retention";
    match free {
        0..TOO_LITTLE => Check::problem(AREA, finding, mend),
        TOO_LITTLE..LITTLE => Check::warning(AREA, finding, mend),
        LITTLE.. => Check::ok(AREA, finding),
    }
}

/// What a filesystem of this kind (`f_type` of statfs(2)) does to a store.
fn kind(place: &str, magic: i64) -> Check {
    // The kernel's numbers are of 32 bits, and some libraries extend their sign.
    let (name, harm) = match magic & 0xffff_ffff {
        0x6969 => ("nfs", "locks and flushes of network filesystems cannot be relied on"),
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => ("smb", "locks and flushes of network filesystems cannot be relied on"),
        0x0102_1997 => ("9p", "locks and flushes of network filesystems cannot be relied on"),
        0x0102_1994 | 0x8584_58f6 => ("tmpfs", "it forgets everything when the machine stops"),
        0x794c_7630 => ("overlayfs", "what a container writes there goes with the container"),
        _ => return Check::ok(AREA, format!("the filesystem of {place} is a local one")),
    };
    let finding = format!("{place} is on {name}: {harm}");
    let mend = "put data_dir on a local disk or a volume, or keep the store in PostgreSQL";
    match name {
        "nfs" | "smb" | "9p" => Check::problem(AREA, finding, mend),
        _ => Check::warning(AREA, finding, mend),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Grade;
    use super::*;

    #[test]
    fn room_is_judged() {
        for (free, grade) in [(0, Grade::Problem), (100 * MEBIBYTE, Grade::Warning), (1 << 40, Grade::Ok)] {
            assert_eq!(space("x", free).grade, grade, "{free}");
        }
    }

    #[test]
    fn filesystems_that_lose_what_is_written_are_told() {
        for (magic, grade) in [
            (0xef53, Grade::Ok),
            (0x6969, Grade::Problem),
            (0xff53_4d42, Grade::Problem),
            (-11_317_950, Grade::Problem),
            (0x0102_1994, Grade::Warning),
            (0x794c_7630, Grade::Warning),
        ] {
            assert_eq!(kind("x", magic).grade, grade, "{magic:x}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_where_it_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let checks = one(&dir.path().join("data/deep"));
        assert!(checks[0].finding.contains("the first start makes it"), "{checks:?}");
        assert!(!dir.path().join("data").exists());
    }
}
