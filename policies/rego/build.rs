//! A larger stack for the module: rules that stand on rules are evaluated one within the other, and a policy of some size
//! needs more than the 64 KiB that other modules have. Pages that are never touched cost nothing.

const STACK: usize = 256 << 10;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_CFG_TARGET_ARCH").is_some_and(|arch| arch == "wasm32") {
        println!("cargo::rustc-link-arg-cdylib=-zstack-size={STACK}");
    }
}
