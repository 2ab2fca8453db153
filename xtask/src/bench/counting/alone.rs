//! A load that nobody else has a part in: one thread makes connections to itself, one after the other.
//!
//! Over loopback the kernel does the work of both ends in the thread that asks for it. So the CPU time of this one thread is
//! the cost of a connection, whoever else is on the machine: it waits for nobody, and no scheduler decides anything. And it can
//! go from a port that is counted to one that is not within milliseconds, before the machine has changed its speed.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

use super::series::Slice;
use crate::bench::stats::Median;
use crate::bench::{Bench, clock};

/// For how long connections are made in a slice.
const SLICE: Duration = Duration::from_millis(150);

/// Connections between two looks at the clock.
const BATCH: u32 = 20;

/// What a port that is counted costs more than one that is not, of the same defib. In seconds of CPU for each connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pairs {
    pub(super) more: Median,
    /// The same of two ports that are not counted, in parts of it.
    pub(super) control: Median,
}

impl Pairs {
    /// Half of the time goes to the control.
    pub(super) fn measure(bench: &Bench, time: Duration) -> Result<Self> {
        let [counted, one, other] = [listen()?, listen()?, listen()?];
        let _defib = super::launch(bench, Some("ebpf"), &[counted.local_addr()?.port()])?;
        clock::sleep(2 * super::SETTLE);
        // In turn, so that both are of the same time.
        let (mut more, mut control) = (Vec::new(), Vec::new());
        let begin = clock::now();
        while u128::from(clock::now() - begin) < time.as_nanos() {
            let [without, with] = quad(&one, &counted)?;
            more.push(with - without);
            let [without, with] = quad(&one, &other)?;
            control.push(with / without);
        }
        let of = |figures| Median::of(figures).context("nothing was measured");
        Ok(Self { more: of(more)?, control: of(control)? })
    }
}

/// Batches at the one, the other, the other, the one: what becomes slower all the time does so for both. What a connection
/// costs at each.
fn quad(one: &TcpListener, other: &TcpListener) -> Result<[f64; 2]> {
    let batches = [batch(one)?, batch(other)?, batch(other)?, batch(one)?];
    Ok([(batches[0] + batches[3]) / 2.0, (batches[1] + batches[2]) / 2.0])
}

/// A slice of this load. Of all batches the one counts that nine of ten are slower than: those that others have held up, on
/// this machine or on its hardware, tell more of them than of the connections.
pub(super) fn slice(listener: &TcpListener) -> Result<Slice> {
    let (begin, mut batches) = (clock::now(), Vec::new());
    while u128::from(clock::now() - begin) < SLICE.as_nanos() {
        batches.push(batch(listener)?);
    }
    let rate = batches.len() as f64 * f64::from(BATCH) / ((clock::now() - begin) as f64 / 1e9);
    batches.sort_unstable_by(f64::total_cmp);
    let cpu = *batches.get(batches.len() / 10).context("nothing was measured")?;
    Ok(Slice { rate, cpu })
}

pub(super) fn listen() -> Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// Seconds of CPU for each connection.
fn batch(listener: &TcpListener) -> Result<f64> {
    let address = listener.local_addr()?;
    let before = own();
    for _ in 0..BATCH {
        connection(listener, address)?;
    }
    Ok((own() - before) / f64::from(BATCH))
}

/// As a server has it that closes when it has answered: a request, an answer, the end of either side.
fn connection(listener: &TcpListener, address: SocketAddr) -> Result<()> {
    let mut client = TcpStream::connect(address)?;
    let (mut server, _) = listener.accept()?;
    let mut byte = [0];
    client.write_all(b"?")?;
    server.read_exact(&mut byte)?;
    server.write_all(b"!")?;
    drop(server);
    client.read_exact(&mut byte)?;
    Ok(())
}

/// CPU time of this thread, in seconds.
fn own() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
