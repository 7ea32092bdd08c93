//! The runtime alone: wakes, timers, sockets, and that none of them starves another.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use futures_lite::future::{or, yield_now};
use futures_lite::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Far beyond what a loaded machine needs.
const LIMIT: Duration = Duration::from_secs(60);

fn run<F: Future<Output = ()> + 'static>(body: F) {
    Runtime::new().unwrap().run(async {
        let hangs = async {
            sleep(LIMIT).await;
            panic!("it hangs");
        };
        or(body, hangs).await;
    });
}

/// The two ends of a connection.
fn connection() -> (TcpStream, StdStream) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let other = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    other.set_nodelay(true).unwrap();
    (TcpStream::new(listener.accept().unwrap().0).unwrap(), other)
}

#[test]
fn a_task_that_always_has_more_to_do_keeps_nobody_from_its_input() {
    run(async {
        let (mut stream, mut other) = connection();
        for _ in 0..50 {
            let has_come = Rc::new(Cell::new(false));
            let comes = Rc::clone(&has_come);
            let reader = spawn(async move {
                stream.read_exact(&mut [0]).await.unwrap();
                comes.set(true);
                stream
            });
            // It waits for the socket by then.
            next_pass().await;
            next_pass().await;
            other.write_all(b"x").unwrap();
            let mut turns = 0;
            while !has_come.get() {
                turns += 1;
                next_pass().await;
            }
            assert!(turns <= 8, "it comes after {turns} turns");
            stream = reader.await;
        }
    });
}

#[test]
fn a_pause_is_one_pass_and_does_not_sleep() {
    run(async {
        for _ in 0..1000 {
            let before = passes();
            next_pass().await;
            assert_eq!(passes(), before + 1);
        }
    });
}

#[test]
fn no_wake_from_another_thread_is_lost() {
    const WAKES: usize = 20_000;
    run(async {
        let (count, waker) = (Arc::new(AtomicUsize::new(0)), mpsc::channel());
        let counted = Arc::clone(&count);
        let other = std::thread::spawn(move || {
            for n in 0..WAKES {
                let waker: std::task::Waker = waker.1.recv_timeout(LIMIT).unwrap();
                // At another moment of the sleeper's way to sleep each time.
                (0..n % 512).for_each(|_| std::hint::spin_loop());
                counted.fetch_add(1, Ordering::SeqCst);
                waker.wake();
            }
        });
        for n in 0..WAKES {
            let mut is_left = false;
            poll_fn(|context| {
                if count.load(Ordering::SeqCst) > n {
                    return Poll::Ready(());
                }
                if !std::mem::replace(&mut is_left, true) {
                    waker.0.send(context.waker().clone()).unwrap();
                }
                Poll::Pending
            })
            .await;
        }
        other.join().unwrap();
    });
}

#[test]
fn timers_go_off_in_their_order_and_not_early() {
    run(async {
        let begun = Instant::now();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = [30, 10, 20]
            .map(|millis| {
                let order = Rc::clone(&order);
                spawn(async move {
                    sleep(Duration::from_millis(millis)).await;
                    assert!(begun.elapsed() >= Duration::from_millis(millis));
                    order.borrow_mut().push(millis);
                })
            })
            .into_iter()
            .collect();
        let never = spawn(sleep(LIMIT * 2));
        for task in tasks {
            task.await;
        }
        assert_eq!(*order.borrow(), [10, 20, 30]);
        drop(never);
        yield_now().await;
        // The test's own limit is left.
        assert_eq!(current().timers.take().len(), 1, "a timer that is dropped is gone");
    });
}

#[test]
fn bytes_of_any_portion_arrive_and_the_end_is_seen() {
    run(async {
        let (mut here, mut there) = connection();
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let other = std::thread::spawn(move || {
            // Portions that fill the reader's buffer exactly, less, or more.
            let mut rest = &sent[..];
            for n in (1..).map(|n: usize| n * 977 % 9000 + 1) {
                let (now, later) = rest.split_at(n.min(rest.len()));
                there.write_all(now).unwrap();
                rest = later;
                if rest.is_empty() {
                    return;
                }
            }
        });
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match here.read(&mut buffer).await.unwrap() {
                0 => break,
                count => got.extend_from_slice(&buffer[..count]),
            }
        }
        assert!(got == expected);
        other.join().unwrap();
    });
}

/// The end comes together with the last bytes, and the watch tells of both at once.
#[test]
fn an_end_right_behind_the_last_bytes_is_seen() {
    run(async {
        for n in 0..200 {
            let (mut here, mut there) = connection();
            let other = std::thread::spawn(move || {
                there.write_all(b"last").unwrap();
                (0..n).for_each(|_| std::hint::spin_loop());
            });
            let mut got = Vec::new();
            here.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"last");
            other.join().unwrap();
        }
    });
}

#[test]
fn a_write_waits_for_a_slow_reader_and_fails_for_one_that_never_reads() {
    run(async {
        let (mut here, mut there) = connection();
        let bytes = vec![7; 16 << 20];
        let reading = std::thread::spawn(move || {
            let mut got = vec![0; 16 << 20];
            there.read_exact(&mut got).unwrap();
            (there, got)
        });
        here.write_all(&bytes).await.unwrap();
        let (silent, got) = reading.join().unwrap();
        assert!(got == bytes);

        here.set_write_timeout(Some(Duration::from_millis(50)));
        let error = here.write_all(&bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(silent);
    });
}

#[test]
fn a_dropped_connection_is_closed_and_a_dropped_listener_too() {
    run(async {
        let (here, mut there) = connection();
        drop(here);
        // What was dropped goes when the kernel is entered next.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(there.read(&mut [0; 8]).unwrap(), 0);

        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listener = TcpListener::new(listener).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        sleep(Duration::from_millis(1)).await;
        assert!(StdStream::connect(address).is_err());
    });
}

#[test]
fn more_connections_than_the_ring_has_places_are_served() {
    const CONNECTIONS: usize = 1000;
    run(async {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = TcpListener::new(listener).unwrap();
        let clients = std::thread::spawn(move || {
            let mut all: Vec<_> =
                (0..CONNECTIONS).map(|_| StdStream::connect(address).unwrap()).collect();
            for client in &mut all {
                client.write_all(b"x").unwrap();
            }
            for client in &mut all {
                client.read_exact(&mut [0]).unwrap();
            }
        });
        let mut echoes = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = listener.accept().await.unwrap();
            echoes.push(spawn(async move {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                stream.write_all(&byte).await.unwrap();
                stream
            }));
        }
        for echo in echoes {
            drop(echo.await);
        }
        clients.join().unwrap();
    });
}

/// A task that never rests keeps neither sockets, nor timers, nor other threads waiting.
#[test]
fn a_task_that_never_rests_starves_nobody() {
    run(async {
        let hog = spawn(async {
            loop {
                yield_now().await;
            }
        });
        let (mut here, mut there) = connection();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let other = std::thread::spawn(move || {
            for _ in 0..100 {
                there.write_all(b"x").unwrap();
                there.read_exact(&mut [0]).unwrap();
            }
            over.store(true, Ordering::SeqCst);
        });
        for _ in 0..100 {
            here.read_exact(&mut [0]).await.unwrap();
            sleep(Duration::from_micros(10)).await;
            here.write_all(b"y").await.unwrap();
        }
        other.join().unwrap();
        assert!(is_over.load(Ordering::SeqCst));
        drop(hog);
    });
}

#[test]
fn tasks_that_are_left_at_the_end_are_dropped() {
    struct Told(mpsc::Sender<&'static str>, &'static str);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(self.1).unwrap();
        }
    }
    let (tell, told) = mpsc::channel();
    let (connected, connections) = mpsc::channel();
    run(async move {
        let (mut here, there) = connection();
        connected.send(there).unwrap();
        let (reads, sleeps) = (Told(tell.clone(), "reads"), Told(tell, "sleeps"));
        spawn(async move {
            let _told = reads;
            let _ = here.read(&mut [0]).await;
        })
        .detach();
        spawn(async move {
            let _told = sleeps;
            sleep(LIMIT * 2).await;
        })
        .detach();
        yield_now().await;
    });
    let mut dropped: Vec<_> = told.into_iter().collect();
    dropped.sort_unstable();
    assert_eq!(dropped, ["reads", "sleeps"]);
    let mut there = connections.recv().unwrap();
    assert_eq!(there.read(&mut [0; 8]).unwrap(), 0, "the reader's connection is closed");
}

#[test]
fn an_idle_runtime_goes_round_only_for_its_timers() {
    run(async {
        let before = passes();
        for _ in 0..10 {
            sleep(Duration::from_millis(5)).await;
        }
        let rounds = passes() - before;
        assert!(rounds < 40, "{rounds} rounds for ten timers");
    });
}
