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
    cargo bench -p portcullis --bench policy
    cargo build --release -p portcullis -p portcullis-tests --bins
    target/release/load

# A release binary that needs no library of the machine that it runs on. The target is named although it is the usual one:
# otherwise the flags would also hold for build scripts and macros, which cannot be linked so.
static:
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --package portcullis --target x86_64-unknown-linux-gnu
    ! readelf --dynamic target/x86_64-unknown-linux-gnu/release/portcullis | grep NEEDED

# The documentation of the library.
docs:
    cargo doc --no-deps --workspace
