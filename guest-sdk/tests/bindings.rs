//! The committed bindings are what the generator makes of the contract.

#[path = "../examples/bindings/main.rs"]
#[expect(dead_code, reason = "its `main` prints")]
mod generator;

#[test]
fn the_committed_bindings_fit_the_contract() {
    let committed = include_str!("../src/bindings.rs");
    let generated = generator::generate().unwrap();
    assert!(committed == generated, "run the commands at the top of guest-sdk/src/bindings.rs");
}
