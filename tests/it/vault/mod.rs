//! The vault of a gateway that runs: its commands, where its keys are, what the process shows, and that no secret gets out.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use portcullis_tests::caller::send_unix;
use portcullis_tests::gateway::SOON;
use portcullis_tests::program;

pub(crate) mod canary;
mod commands;
mod process;
mod reach;

/// The real program, serving a directory until this is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) async fn start(dir: &Path, prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(program("portcullis"));
        command
            .arg("serve")
            .current_dir(dir)
            .env_remove("PORTCULLIS_CONFIG")
            .env_remove("PORTCULLIS_SOCKET")
            .stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        prepare(&mut command);
        let mut process = Self(command.spawn().unwrap());
        let ready = async {
            loop {
                if let Ok(status) = send_unix(&dir.join("data/admin.sock"), "GET", "/api/v1/status", None).await
                    && status.json()["ready"] == true
                {
                    return;
                }
                assert!(process.0.try_wait().unwrap().is_none(), "the gateway ended");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        // With all that it says at trace a start takes longer.
        tokio::time::timeout(4 * SOON, ready).await.expect("the gateway gets ready");
        process
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to stop and waits until it has.
    pub(crate) async fn stop(mut self) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let ended = async {
            while self.0.try_wait().unwrap().is_none() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, ended).await.expect("the gateway stops");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A free port of loopback, as far as that lasts.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
