//! `wasi_snapshot_preview1` for core modules whose toolchain cannot do without it: built into the component, out of
//! nothing but the guest itself and `log`.
//!
//! There are no files, no sockets, no arguments and no environment. What is written to standard output and standard
//! error becomes lines of the log. Time begins at the same moment in each instance and passes only by being asked for;
//! randomness is the same in each instance, which is enough for hash tables and nothing else. Whatever is not
//! answered so is `ENOSYS`. A policy that wants the time or randomness has `clock` and `random`.
//!
//! The adapter is `wasi.wat`; what is built in is `wasi.wasm`, made of it by the test below with `UPDATE=1`.

use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::contract;

/// The name by which core modules import it.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";

const ADAPTER: &[u8] = include_bytes!("wasi.wasm");

/// What it consists of.
pub(super) const FUNCTIONS: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// The adapter, with what it imports itself written on it.
pub(super) fn adapter() -> anyhow::Result<Vec<u8>> {
    let mut resolve = Resolve::default();
    resolve.push_source("policy.wit", contract::WIT)?;
    let world = format!("package portcullis:wasi; world wasi {{ import {}; }}", contract::interface("log"));
    let package = resolve.push_source("wasi.wit", &world)?;
    let world = resolve.select_world(&[package], None)?;
    let mut adapter = ADAPTER.to_vec();
    embed_component_metadata(&mut adapter, &resolve, world, StringEncoding::UTF8)?;
    Ok(adapter)
}

#[cfg(test)]
mod tests {
    use wasmparser::{Parser, Payload};

    use super::*;

    #[test]
    fn the_adapter_is_what_its_text_says() {
        let made = wat::parse_str(include_str!("wasi.wat")).unwrap();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/policy/wasi.wasm"), &made).unwrap();
            return;
        }
        assert!(made == ADAPTER, "wasi.wasm is not made of wasi.wat: run this test with UPDATE=1");
    }

    #[test]
    fn the_adapter_has_the_functions_that_it_should() {
        let mut exports = Vec::new();
        for payload in Parser::new(0).parse_all(ADAPTER) {
            if let Payload::ExportSection(section) = payload.unwrap() {
                exports.extend(section.into_iter().map(|export| export.unwrap().name));
            }
        }
        exports.sort_unstable();
        assert_eq!(exports, FUNCTIONS);
    }
}
