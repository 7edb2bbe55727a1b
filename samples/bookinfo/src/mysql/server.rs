//! A small database that speaks MySQL's protocol and knows one table, `ratings`.

use std::time::Duration;

use anyhow::ensure;
use tokio::io::{AsyncRead, AsyncWrite};

use super::wire::{CAPABILITIES, NATIVE_PASSWORD, Packets, Reader, UTF8, put_text, scramble};
use crate::http as web;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Port to listen on
    #[arg(long, env = "PORT", default_value_t = 3306)]
    port: u16,
    #[arg(long, env = "MYSQL_ROOT_PASSWORD", default_value = "password", hide_env_values = true)]
    password: String,
}

const RATINGS: [(&str, &str); 2] = [("1", "5"), ("2", "4")];
const IDLE: Duration = Duration::from_secs(300);

pub(crate) async fn serve(options: Options) -> anyhow::Result<()> {
    let listener = web::bind((std::net::Ipv6Addr::UNSPECIFIED, options.port).into()).await?;
    let mut number = 0_u32;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        number = number.wrapping_add(1);
        let (password, number) = (options.password.clone(), number);
        tokio::spawn(async move {
            // A client that misbehaves loses its own connection, no more.
            let _ = tokio::time::timeout(IDLE, session(stream, &password, number)).await;
        });
    }
}

/// The server speaks first; then one client logs in and asks until it leaves.
async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    password: &str,
    number: u32,
) -> anyhow::Result<()> {
    let mut packets = Packets::new(stream);
    let challenge = challenge(number);
    packets.write(&greeting(number, &challenge)).await?;
    let login = packets.read().await?;
    if proof(&login)? != scramble(password, &challenge) {
        return packets.write(&error(1045, "28000", "Access denied")).await;
    }
    packets.write(OK).await?;
    loop {
        packets.restart();
        let command = packets.read().await?;
        match command.split_first() {
            Some((0x01, _)) | None => return Ok(()),
            Some((0x02 | 0x0e, _)) => packets.write(OK).await?,
            Some((0x03, sql)) => answer(&mut packets, &String::from_utf8_lossy(sql)).await?,
            Some(_) => packets.write(&error(1047, "08S01", "Unknown command")).await?,
        }
    }
}

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
const END: &[u8] = &[0xfe, 0, 0, 2, 0];

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    packets: &mut Packets<S>,
    sql: &str,
) -> anyhow::Result<()> {
    let words: Vec<String> = sql
        .split([' ', ',', ';', '\n', '\t', '`'])
        .filter(|w| !w.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let columns: &[&str] = match words.as_slice() {
        ["set", ..] => return packets.write(OK).await,
        ["select", "rating", "from", "ratings"] => &["Rating"],
        ["select", "*", "from", "ratings"] => &["ReviewID", "Rating"],
        _ => {
            return packets
                .write(&error(1064, "42000", "this small database knows SELECT Rating FROM ratings"))
                .await;
        }
    };
    packets.write(&[columns.len() as u8]).await?;
    for column in columns {
        packets.write(&definition(column)).await?;
    }
    packets.write(END).await?;
    for (id, stars) in RATINGS {
        let mut row = Vec::new();
        if columns.len() == 2 {
            put_text(&mut row, id);
        }
        put_text(&mut row, stars);
        packets.write(&row).await?;
    }
    packets.write(END).await
}

fn definition(column: &str) -> Vec<u8> {
    let mut packet = Vec::new();
    for text in ["def", "test", "ratings", "ratings", column, column] {
        put_text(&mut packet, text);
    }
    packet.extend_from_slice(&[0x0c, UTF8, 0, 11, 0, 0, 0, 0x03, 0, 0, 0, 0, 0]);
    packet
}

fn error(code: u16, state: &str, message: &str) -> Vec<u8> {
    let mut packet = vec![0xff];
    packet.extend_from_slice(&code.to_le_bytes());
    packet.push(b'#');
    packet.extend_from_slice(state.as_bytes());
    packet.extend_from_slice(message.as_bytes());
    packet
}

/// A challenge of printable bytes, another one for each connection. It guards a sample with a public password.
fn challenge(number: u32) -> Vec<u8> {
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let mut state = u64::from(number) << 32 | u64::from(nanos);
    (0..20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b'!' + (state >> 57) as u8 % 90
        })
        .collect()
}

fn greeting(number: u32, challenge: &[u8]) -> Vec<u8> {
    let capabilities = CAPABILITIES.to_le_bytes();
    let mut packet = vec![10];
    packet.extend_from_slice(b"8.0.0-bookinfo\0");
    packet.extend_from_slice(&number.to_le_bytes());
    packet.extend_from_slice(&challenge[..8]);
    packet.push(0);
    packet.extend_from_slice(&capabilities[..2]);
    packet.push(UTF8);
    packet.extend_from_slice(&[2, 0]);
    packet.extend_from_slice(&capabilities[2..]);
    packet.push(challenge.len() as u8 + 1);
    packet.extend_from_slice(&[0; 10]);
    packet.extend_from_slice(&challenge[8..]);
    packet.push(0);
    packet.extend_from_slice(NATIVE_PASSWORD.as_bytes());
    packet.push(0);
    packet
}

/// The client's proof of the password, out of its login.
fn proof(login: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut reader = Reader(login);
    ensure!(reader.take(4)?.len() == 4, "a login without capabilities");
    reader.take(4 + 1 + 23)?;
    reader.until_nul()?;
    let length = usize::from(reader.byte()?);
    Ok(reader.take(length)?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::client::{Login, query};

    async fn server() -> u16 {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move { session(stream, "password", 1).await });
            }
        });
        port
    }

    #[tokio::test]
    async fn ratings_are_read_with_the_right_password_only() {
        let port = server().await;
        let ask = |password, sql| {
            query(("127.0.0.1", port), Login { user: "root", password, database: "test" }, sql)
        };
        let rows = ask("password", "SELECT Rating FROM ratings").await.unwrap();
        assert_eq!(rows, [["5"], ["4"]]);
        assert!(ask("wrong", "SELECT Rating FROM ratings").await.unwrap_err().to_string().contains("denied"));
        assert!(ask("password", "DROP TABLE ratings").await.is_err());
    }
}
