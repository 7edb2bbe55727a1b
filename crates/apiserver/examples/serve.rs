//! Runs the embedded API alone: `cargo run -p apiserver --example serve -- FOLDER [ADDRESS]`.

use std::io::Write;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: serve FOLDER [ADDRESS]")?;
    let mut config = apiserver::Config::new(folder);
    if let Some(address) = arguments.next() {
        config.listen = address.parse()?;
    }
    let server = apiserver::Server::start(config).await?;
    println!("{} {}", server.url(), server.kubeconfig_path().display());
    std::io::stdout().flush()?;
    tokio::signal::ctrl_c().await?;
    server.shutdown().await;
    Ok(())
}
