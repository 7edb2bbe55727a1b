//! `mizzen dashboard`: the console's address, with the user's token in the part that never leaves the browser.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use serde_json::Value;

use crate::ServerArgs;
use crate::client::{NO_SERVER, default_data_dir};
use crate::control::escape;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mizzen dashboard                   print the address and open it
  mizzen dashboard --no-browser      print it only")]
pub struct DashboardArgs {
    /// Where the console is served
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:20001")]
    console: String,
    /// Print the address and open nothing
    #[arg(long)]
    no_browser: bool,
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

pub(crate) fn execute(args: &DashboardArgs) -> anyhow::Result<ExitCode> {
    let own = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    let file = args.server.kubeconfig_file().or(own.filter(|file| file.is_file())).context(NO_SERVER)?;
    let token = token(&file)?;
    if token.is_none() {
        eprintln!("the kubeconfig has no token: the console will ask for one");
    }
    let address = address(&args.console, token.as_deref());
    println!("{address}");
    if !args.no_browser && std::io::stdout().is_terminal() {
        open(&address)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the console is entered, signed in if there is a token.
pub(crate) fn address(console: &str, token: Option<&str>) -> String {
    let console = console.trim_end_matches('/');
    match token {
        Some(token) => format!("{console}/#token={}", escape(token)),
        None => format!("{console}/"),
    }
}

/// The current user's token, as the kubeconfig has it.
pub(crate) fn token(file: &Path) -> anyhow::Result<Option<String>> {
    let about = || format!("kubeconfig {}", file.display());
    let text = std::fs::read_to_string(file).with_context(about)?;
    let config: Value = serde_yaml_ng::from_str(&text).with_context(about)?;
    let Some(user) = current_user(&config) else { return Ok(None) };
    if let Some(token) = user["token"].as_str() {
        return Ok(Some(token.to_owned()));
    }
    let Some(token_file) = user["tokenFile"].as_str() else { return Ok(None) };
    let token = std::fs::read_to_string(token_file).with_context(|| format!("token {token_file}"))?;
    Ok(Some(token.trim().to_owned()))
}

fn current_user(config: &Value) -> Option<&Value> {
    let named = |list: &'static str, name: &Value| {
        config[list].as_array().into_iter().flatten().find(move |entry| entry["name"] == *name)
    };
    let context = named("contexts", &config["current-context"])?;
    Some(&named("users", &context["context"]["user"])?["user"])
}

/// Opens it with what the desktop has for that; where there is nothing, the printed address must do. The browser is
/// led there by a file that only the user may read: the arguments of a process are for everybody to see.
fn open(address: &str) -> anyhow::Result<()> {
    let folder = default_data_dir();
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let file = folder.join("dashboard.html");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut page = options.open(&file).with_context(|| file.display().to_string())?;
    write!(page, "<!doctype html><meta http-equiv=\"refresh\" content=\"0;url={}\">", attribute(address))?;
    let opener = Command::new("xdg-open")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Ok(mut opener) = opener {
        // It hands over to the browser and ends.
        let _ = opener.wait();
    }
    Ok(())
}

/// Text as an attribute of HTML.
fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_token_stays_behind_the_hash() {
        assert_eq!(address("http://127.0.0.1:20001/", Some("a/b")), "http://127.0.0.1:20001/#token=a%2Fb");
        assert_eq!(address("http://127.0.0.1:20001", None), "http://127.0.0.1:20001/");
    }

    #[test]
    fn the_token_is_the_current_user_s() {
        let config = json!({
            "current-context": "mizzen",
            "contexts": [{"name": "other", "context": {"user": "x"}}, {"name": "mizzen", "context": {"user": "me"}}],
            "users": [{"name": "x", "user": {"token": "no"}}, {"name": "me", "user": {"token": "yes"}}],
        });
        assert_eq!(current_user(&config).unwrap()["token"], "yes");
        assert_eq!(current_user(&json!({"current-context": "gone"})), None);
    }
}
