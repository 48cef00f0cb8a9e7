//! An upstream over stdio that misbehaves: `hostile-stdio BEHAVIOUR [--from-the-start]`.

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let status = portcullis_tests::upstreams::hostile_stdio::main(&arguments).await;
    // Returning would wait for a read of standard input, which may never end.
    std::process::exit(status.into());
}
