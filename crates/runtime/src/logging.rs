//! Log lines on standard error, so that standard output stays what the program was asked for.

use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

type Reload = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// What is logged now, and how that is changed.
struct Control {
    filter: Mutex<String>,
    reload: Reload,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

/// Starts logging at `default` (`info`, or `info,xds=debug`), which `MIZZEN_LOG` overrides. Later calls do nothing.
pub fn init(format: Format, default: &str) {
    let wanted = std::env::var("MIZZEN_LOG").ok().filter(|text| text.parse::<EnvFilter>().is_ok());
    let wanted = wanted.unwrap_or_else(|| default.to_owned());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&wanted))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_span_events(FmtSpan::NONE);
    let (started, reload): (_, Reload) = match format {
        Format::Text => {
            let lines = lines.with_filter_reloading();
            let handle = lines.reload_handle();
            (lines.try_init(), Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            let handle = lines.reload_handle();
            (lines.try_init(), Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
    };
    if started.is_ok() {
        let _ = CONTROL.set(Control { filter: Mutex::new(wanted), reload });
    }
}

/// What is logged now: directives as [`init`] takes them. Nothing where logging is somebody else's.
pub fn filter() -> Option<String> {
    let control = CONTROL.get()?;
    Some(control.filter.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Logs by these directives from now on.
pub fn set_filter(directives: &str) -> Result<(), String> {
    let control = CONTROL.get().ok_or("this process does not log by itself")?;
    let filter: EnvFilter = directives.parse().map_err(|e| format!("{directives:?}: {e}"))?;
    let mut kept = control.filter.lock().unwrap_or_else(PoisonError::into_inner);
    (control.reload)(filter)?;
    directives.clone_into(&mut kept);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_can_be_changed_later() {
        init(Format::Text, "warn");
        set_filter("info,xds=debug").unwrap();
        assert_eq!(filter().as_deref(), Some("info,xds=debug"));
        assert!(tracing::enabled!(target: "xds", tracing::Level::DEBUG));
        assert!(!tracing::enabled!(target: "proxy", tracing::Level::DEBUG));
        assert!(set_filter("xds=loud").is_err());
        assert_eq!(filter().as_deref(), Some("info,xds=debug"));
    }
}
