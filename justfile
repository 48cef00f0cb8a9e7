# Daily work. Each recipe is a plain command that also works without `just`.

# Formatting, lints and, where cargo-deny is installed, licences and sources of dependencies.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- --deny warnings
    if command -v cargo-deny >/dev/null; then cargo deny check bans licenses sources; fi

# The tests beside the code and the black-box tests.
test:
    tests/run unit blackbox

# Everything that CI runs.
accept:
    tests/run

# A gateway to play with.
run:
    cargo run -- quickstart

# The committed policies, from source.
policies:
    policies/build policies/prebuilt

# What decisions and calls cost.
bench:
    cargo bench -p portcullis-tests --bench policy
    cargo build --release -p portcullis -p portcullis-tests --bins
    target/release/load

# The documentation of the library.
docs:
    cargo doc --no-deps --workspace
