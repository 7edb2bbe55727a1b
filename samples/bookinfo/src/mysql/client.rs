//! One question to a MySQL or MariaDB server.

use anyhow::{Context, bail, ensure};
use tokio::net::TcpStream;

use super::wire::{CAPABILITIES, NATIVE_PASSWORD, Packets, Reader, UTF8, scramble};

pub(crate) struct Login<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    pub(crate) database: &'a str,
}

const LARGEST_RESULT: usize = 10_000;

/// Connects, logs in, asks, and returns the rows as text.
pub(crate) async fn query(
    server: (&str, u16),
    login: Login<'_>,
    sql: &str,
) -> anyhow::Result<Vec<Vec<String>>> {
    let stream = TcpStream::connect(server)
        .await
        .with_context(|| format!("cannot reach {}:{}", server.0, server.1))?;
    let mut packets = Packets::new(stream);
    log_in(&mut packets, &login).await?;
    packets.restart();
    packets.write(&[&[0x03], sql.as_bytes()].concat()).await?;
    rows(&mut packets).await
}

async fn log_in(packets: &mut Packets<TcpStream>, login: &Login<'_>) -> anyhow::Result<()> {
    let greeting = packets.read().await.context("the server did not greet")?;
    let challenge = challenge(&greeting)?;
    let mut answer = Vec::new();
    answer.extend_from_slice(&CAPABILITIES.to_le_bytes());
    answer.extend_from_slice(&(1_u32 << 24).to_le_bytes());
    answer.push(UTF8);
    answer.extend_from_slice(&[0; 23]);
    answer.extend_from_slice(login.user.as_bytes());
    answer.push(0);
    let proof = scramble(login.password, &challenge);
    answer.push(proof.len() as u8);
    answer.extend_from_slice(&proof);
    for text in [login.database, NATIVE_PASSWORD] {
        answer.extend_from_slice(text.as_bytes());
        answer.push(0);
    }
    packets.write(&answer).await?;
    let mut result = packets.read().await?;
    if result.first() == Some(&0xfe) {
        // The server asks for another method, with a challenge of its own.
        let mut reader = Reader(&result[1..]);
        let method = String::from_utf8_lossy(reader.until_nul()?).into_owned();
        ensure!(method == NATIVE_PASSWORD, "the server wants {method}, which this client cannot do");
        let challenge = reader.0.strip_suffix(&[0]).unwrap_or(reader.0);
        packets.write(&scramble(login.password, challenge)).await?;
        result = packets.read().await?;
    }
    refused(&result)
}

/// The two halves of the server's challenge.
fn challenge(greeting: &[u8]) -> anyhow::Result<Vec<u8>> {
    refused(greeting)?;
    let mut reader = Reader(greeting);
    ensure!(reader.byte()? == 10, "the server does not speak protocol version 10");
    reader.until_nul()?;
    reader.take(4)?;
    let mut challenge = reader.take(8)?.to_vec();
    reader.take(1 + 2 + 1 + 2 + 2 + 1 + 10)?;
    let rest = reader.0.get(..12).context("the challenge is too short")?;
    challenge.extend_from_slice(rest);
    Ok(challenge)
}

async fn rows(packets: &mut Packets<TcpStream>) -> anyhow::Result<Vec<Vec<String>>> {
    let head = packets.read().await?;
    refused(&head)?;
    let columns = Reader(&head).length()?.unwrap_or_default();
    ensure!(columns <= 1024, "{columns} columns are too many");
    if columns == 0 {
        return Ok(Vec::new());
    }
    // The columns, and their end.
    for _ in 0..=columns {
        packets.read().await?;
    }
    let mut rows = Vec::new();
    loop {
        let packet = packets.read().await?;
        if packet.first() == Some(&0xfe) && packet.len() < 9 {
            break;
        }
        refused(&packet)?;
        ensure!(rows.len() < LARGEST_RESULT, "more than {LARGEST_RESULT} rows");
        let mut reader = Reader(&packet);
        let row = (0..columns).map(|_| Ok(reader.text()?.unwrap_or_default()));
        rows.push(row.collect::<anyhow::Result<Vec<_>>>()?);
    }
    Ok(rows)
}

/// An error packet becomes an error.
fn refused(packet: &[u8]) -> anyhow::Result<()> {
    if packet.first() != Some(&0xff) {
        return Ok(());
    }
    let message = packet.get(3..).unwrap_or_default();
    let message = message.strip_prefix(b"#").and_then(|m| m.get(5..)).unwrap_or(message);
    bail!("the database refused: {}", String::from_utf8_lossy(message))
}
