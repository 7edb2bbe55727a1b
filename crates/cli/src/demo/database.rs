//! The demo's database: a real MariaDB where one is installed, else the sample's own, which speaks the same protocol.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use nix::{
    libc,
    sys::signal::{Signal, killpg},
    unistd::{Pid, Uid},
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// Debian's package is `mariadb-server`; its program is on no ordinary user's path.
const SERVER: &str = "mariadbd";
const INSTALLER: &str = "mariadb-install-db";
const FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/sbin"];
const PATIENCE: Duration = Duration::from_secs(60);
/// A sample of two rows needs no files of a hundred megabytes.
const SMALL: [&str; 3] = ["--no-defaults", "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=16M"];

/// One statement a line, as `--init-file` wants it; the stars that ratings v1 has.
const SCHEMA: &str = "\
CREATE DATABASE IF NOT EXISTS test;
CREATE TABLE test.ratings (ReviewID INT NOT NULL, Rating INT, PRIMARY KEY (ReviewID));
INSERT INTO test.ratings VALUES (1, 5), (2, 4);
CREATE OR REPLACE USER 'root'@'%' IDENTIFIED BY 'password';
GRANT ALL ON *.* TO 'root'@'%';
";

pub(super) enum Database {
    /// A server with the folder of its data.
    MariaDb { server: PathBuf, version: String, folder: PathBuf },
    /// The sample's own, and why.
    Sample(String),
}

impl Database {
    /// Makes the tables of a MariaDB in the folder, where there is one.
    pub(super) async fn make(folder: &Path) -> Self {
        let (Some(server), Some(installer)) = (find(SERVER), find(INSTALLER)) else {
            return Self::Sample("MariaDB is not installed".into());
        };
        match install(&server, &installer, &folder.join("mariadb"), &folder.join("mariadb.log")).await {
            Ok(made) => made,
            Err(error) => Self::Sample(format!("MariaDB cannot be set up here: {error:#}")),
        }
    }

    /// What is started in the workload.
    pub(super) fn command(&self, bookinfo: &Path) -> Vec<OsString> {
        let Self::MariaDb { server, folder, .. } = self else {
            return vec![bookinfo.into(), "mysqldb".into()];
        };
        let mut command: Vec<OsString> = vec![server.into()];
        command.extend(SMALL.iter().chain(own_user()).map(OsString::from));
        // The socket lies in the data folder, named from there: the whole path may be too long for one.
        command.extend(["--skip-name-resolve", "--port=3306", "--socket=socket"].map(OsString::from));
        command.extend([option("--datadir=", folder), option("--init-file=", &schema(folder))]);
        command
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        match self {
            Self::MariaDb { server, version, .. } => format!("MariaDB {version} ({})", server.display()),
            Self::Sample(why) => format!("the sample's own ({why})"),
        }
    }
}

async fn install(server: &Path, installer: &Path, folder: &Path, log: &Path) -> anyhow::Result<Database> {
    let version = Command::new(server).arg("--version").stdin(Stdio::null()).output().await;
    let version = version.with_context(|| server.display().to_string())?;
    let version =
        version_in(&String::from_utf8_lossy(&version.stdout)).context("it does not say its version")?;
    let said = fs::File::create(log).with_context(|| log.display().to_string())?;
    let mut command = std::process::Command::new(installer);
    command
        .args(SMALL)
        .args(own_user())
        .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(option("--datadir=", folder))
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said);
    // It is a script that starts others: they are one group, so that none outlives the demo.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    agent::host::end_with_starter(&mut command, libc::SIGTERM);
    let mut making = Group(Command::from(command).spawn().with_context(|| installer.display().to_string())?);
    let status = timeout(PATIENCE, making.0.wait()).await.context("it takes too long")??;
    ensure!(status.success(), "{INSTALLER}: {status}; see {}", log.display());
    fs::write(schema(folder), SCHEMA).context("the schema")?;
    Ok(Database::MariaDb { server: server.to_owned(), version, folder: folder.to_owned() })
}

/// A process with its children; ends with its holder.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // One that was waited for has no id any more.
        if let Some(group) = self.0.id().and_then(|id| i32::try_from(id).ok()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(path);
    option
}

fn schema(folder: &Path) -> PathBuf {
    folder.with_extension("sql")
}

/// Root must say that it means it.
fn own_user() -> &'static [&'static str] {
    if Uid::effective().is_root() { &["--user=root"] } else { &[] }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// `10.11.6` of `mariadbd  Ver 10.11.6-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)`.
fn version_in(said: &str) -> Option<String> {
    let version = said.split_whitespace().skip_while(|word| *word != "Ver").nth(1)?;
    Some(version.split('-').next().unwrap_or(version).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_server_is_started_on_its_own_data_and_else_the_sample_s() {
        let own = Database::Sample("not there".into());
        assert_eq!(own.command(Path::new("/b")), ["/b", "mysqldb"]);
        assert_eq!(own.told(), "the sample's own (not there)");
        let said = "mariadbd  Ver 10.11.6-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)";
        let version = version_in(said).unwrap();
        let real = Database::MariaDb { server: "/s".into(), version, folder: "/f/mariadb".into() };
        assert_eq!(real.told(), "MariaDB 10.11.6 (/s)");
        let command = real.command(Path::new("/b"));
        assert_eq!((command[0].to_str(), command[1].to_str()), (Some("/s"), Some("--no-defaults")));
        for part in ["--port=3306", "--datadir=/f/mariadb", "--init-file=/f/mariadb.sql"] {
            assert!(command.iter().any(|word| word == part), "{command:?}");
        }
        assert_eq!(version_in("nonsense"), None);
    }
}
