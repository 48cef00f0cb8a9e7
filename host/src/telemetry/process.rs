//! What the kernel knows of this process, as far as it tells.

use std::fs;
use std::time::Duration;

/// This process at a glance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    pub resident_bytes: Option<u64>,
    pub open_files: Option<u64>,
    pub most_files: Option<u64>,
    pub threads: Option<u64>,
}

impl Process {
    /// Reads it. What is not told, on a system without `/proc` say, is `None`.
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
        };
        Self {
            resident_bytes: number("VmRSS").map(|kilobytes| kilobytes * 1024),
            threads: number("Threads"),
            // The directory that is read is one of them.
            open_files: fs::read_dir("/proc/self/fd").ok().map(|files| (files.count() as u64).saturating_sub(1)),
            most_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

/// Processor time that the process has used so far, in seconds.
pub fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Duration::new(seconds, nanos).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_takes() {
        let before = Process::read();
        assert!(before.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{before:?}");
        assert!(before.threads.is_some_and(|threads| threads > 0), "{before:?}");
        let held: Vec<fs::File> = (0..10).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let after = Process::read();
        assert!(after.open_files >= before.open_files.map(|files| files + held.len() as u64), "{before:?} {after:?}");
        assert!(after.most_files >= after.open_files);
        assert!(cpu_seconds() > 0.0);
    }
}
