//! What a workload of another host is given to join with: one file, made by `mizzen token create`.
//!
//! The token on the first line; perhaps `control-plane: HOST:PORT`; then the roots that the control plane is known by. Only
//! the token is secret.

use std::{
    io::{Read, Write as _},
    path::Path,
};

use anyhow::{Context, bail};
use zeroize::Zeroizing;

const CONTROL_PLANE: &str = "control-plane:";
const LARGEST: u64 = 1 << 20;

#[derive(Clone)]
pub(crate) struct JoinFile {
    pub(crate) token: Zeroizing<String>,
    pub(crate) roots: String,
    pub(crate) control_plane: Option<String>,
}

impl JoinFile {
    /// From a file, or from standard input for `-`.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let mut text = Zeroizing::new(String::new());
        let read = if path.as_os_str() == "-" {
            std::io::stdin().take(LARGEST).read_to_string(&mut text)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text))
        };
        read.with_context(|| format!("--join {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("--join {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines();
        let token = lines.next().unwrap_or_default().trim();
        if ca::Shown::read(token).is_none() {
            bail!("the first line is no join token: give the file that `mizzen token create` printed");
        }
        let roots = text.find("-----BEGIN CERTIFICATE-----").map(|at| text[at..].to_owned());
        let Some(roots) = roots else {
            bail!(
                "there are no root certificates below the token: give the whole file that `mizzen token create` printed"
            );
        };
        tls::certificates_from_pem("root certificates", roots.as_bytes())?;
        let control_plane = lines.find_map(|line| line.trim().strip_prefix(CONTROL_PLANE));
        Ok(Self {
            token: Zeroizing::new(token.to_owned()),
            roots,
            control_plane: control_plane.map(|address| address.trim().to_owned()),
        })
    }

    /// To standard output; it is the only copy.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", *self.token)?;
        if let Some(address) = &self.control_plane {
            writeln!(out, "{CONTROL_PLANE} {address}")?;
        }
        writeln!(out, "{}", self.roots.trim_end())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_token_or_roots_is_refused_with_what_to_give() {
        for (text, words) in [
            ("", "first line"),
            ("mizzen-join.x", "first line"),
            ("mizzen-join.default.abc", "no root certificates"),
            ("mizzen-join.default.abc\n-----BEGIN CERTIFICATE-----\n", "root certificates"),
        ] {
            let error = JoinFile::parse(text).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
