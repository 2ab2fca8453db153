//! Users with passwords: HTTP's basic authentication against hashes of bcrypt.
//!
//! A hash takes some ten to some hundred milliseconds, and a scrape comes every few seconds. So what was right once is
//! remembered, as a keyed digest that is of no use to who reads it; and one hash is computed at a time, on a thread of its
//! own, so that whoever tries passwords has one processor at most.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderValue;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bcrypt::HashParts;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

/// How many that were right are remembered: more than one scraper with one password is unusual.
const KNOWN: usize = 100;

/// Each step doubles the time of a hash: 14 takes a second, on a busy machine several, and an answer may take 10.
const MAX_COST: u32 = 14;

/// Names with their hashes.
#[derive(Debug, Default)]
pub(super) struct Users(BTreeMap<String, String>);

impl Users {
    /// Checks the hashes.
    pub(super) fn new(users: BTreeMap<String, String>) -> Result<Self, String> {
        for (name, hash) in &users {
            let wanted = "a bcrypt hash, as `htpasswd -nBC 10 NAME` makes it";
            match hash.parse::<HashParts>().map(|parts| parts.get_cost()) {
                Ok(cost) if cost <= MAX_COST => {}
                Ok(cost) => {
                    return Err(format!(
                        "basic_auth_users.{name}: found the cost {cost}, wanted at most {MAX_COST}"
                    ));
                }
                Err(_no_hash) => return Err(format!("basic_auth_users.{name}: wanted {wanted}")),
            }
        }
        Ok(Self(users))
    }
}

/// Who was let in.
#[derive(Debug)]
pub(super) struct Passwords {
    key: hmac::Key,
    known: Mutex<VecDeque<[u8; 32]>>,
    turn: Arc<Semaphore>,
}

impl Passwords {
    /// Nobody yet.
    pub(super) fn new() -> Result<Self, &'static str> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_unspecified| "the kernel gives no random numbers")?;
        Ok(Self { key, known: Mutex::default(), turn: Arc::new(Semaphore::new(1)) })
    }

    /// Whether somebody is let in: everybody if there are no users.
    pub(super) async fn admit(&self, users: &Users, authorization: Option<&HeaderValue>) -> bool {
        if users.0.is_empty() {
            return true;
        }
        let Some((name, password)) = authorization.and_then(basic) else { return false };
        // Who tries names learns nothing from the time that it takes: a name that is not there costs a hash, too.
        let hash = users.0.get(&name);
        let Some(compared) = hash.or_else(|| users.0.values().next()).cloned() else { return false };
        let digest = self.digest(&name, &compared, &password);
        if hash.is_some() && self.knows(&digest) {
            return true;
        }
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else { return false };
        if hash.is_some() && self.knows(&digest) {
            return true;
        }
        let compare = move || {
            // Held until the end of the work, whoever still waits for it.
            let _turn = turn;
            bcrypt::verify(password, &compared).unwrap_or(false)
        };
        let right = tokio::task::spawn_blocking(compare).await.unwrap_or(false) && hash.is_some();
        if right {
            self.remember(digest);
        }
        right
    }

    fn knows(&self, digest: &[u8; 32]) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    fn remember(&self, digest: [u8; 32]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.truncate(KNOWN - 1);
        known.push_front(digest);
    }

    /// Of name, hash and password: what is changed in the file is not known any more.
    fn digest(&self, name: &str, hash: &str, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [name.as_bytes(), hash.as_bytes(), password] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

/// Name and password of `Basic BASE64(NAME:PASSWORD)`.
fn basic(header: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = STANDARD.decode(rest.trim()).ok()?;
    let at = pair.iter().position(|byte| *byte == b':')?;
    let name = String::from_utf8(pair[..at].to_vec()).ok()?;
    Some((name, pair[at + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(pair: &str) -> HeaderValue {
        format!("Basic {}", STANDARD.encode(pair)).parse().unwrap()
    }

    fn users(pairs: &[(&str, &str)]) -> Users {
        let hash = |(name, password): &(&str, &str)| ((*name).to_owned(), bcrypt::hash(password, 4).unwrap());
        Users::new(pairs.iter().map(hash).collect()).unwrap()
    }

    #[tokio::test]
    async fn names_with_their_passwords_are_let_in() {
        let passwords = Passwords::new().unwrap();
        assert!(passwords.admit(&Users::default(), None).await, "where there are no users");
        let users = users(&[("alice", "se:cret"), ("bob", "")]);
        for _ in 0..2 {
            assert!(passwords.admit(&users, Some(&header("alice:se:cret"))).await);
            assert!(passwords.admit(&users, Some(&header("bob:"))).await);
            for wrong in ["alice:", "alice:bob", "bob:se:cret", "carol:se:cret", "alice", ":se:cret", ""] {
                assert!(!passwords.admit(&users, Some(&header(wrong))).await, "{wrong}");
            }
            for junk in ["", "Basic", "Basic ", "Basic !", "Bearer YTpi", "Basic YTpi YTpi"] {
                assert!(!passwords.admit(&users, Some(&junk.parse().unwrap())).await, "{junk}");
            }
            assert!(!passwords.admit(&users, None).await);
        }
        assert_eq!(passwords.known.lock().unwrap().len(), 2, "only what was right is remembered");
    }

    #[tokio::test]
    async fn a_password_that_was_changed_is_not_known_any_more() {
        let passwords = Passwords::new().unwrap();
        let header = header("alice:one");
        assert!(passwords.admit(&users(&[("alice", "one")]), Some(&header)).await);
        assert!(!passwords.admit(&users(&[("alice", "two")]), Some(&header)).await);
        assert!(!passwords.admit(&users(&[("bob", "one")]), Some(&header)).await);
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room() {
        let passwords = Passwords::new().unwrap();
        for n in 0..=u8::MAX {
            passwords.remember([n; 32]);
        }
        assert_eq!(passwords.known.lock().unwrap().len(), KNOWN);
        assert!(passwords.knows(&[u8::MAX; 32]) && !passwords.knows(&[0; 32]));
    }

    #[test]
    fn what_is_no_hash_is_refused_without_being_repeated() {
        let of =
            |hash: &str| Users::new(BTreeMap::from([("alice".to_owned(), hash.to_owned())])).unwrap_err();
        for hash in ["", "secret", "$2y$10$short"] {
            let error = of(hash);
            assert!(error.contains("basic_auth_users.alice") && error.contains("htpasswd"), "{error}");
            assert!(hash.is_empty() || !error.contains(hash), "{error}");
        }
        let costly = "$2y$31$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";
        assert!(of(costly).contains("found the cost 31, wanted at most 14"));
        let made = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";
        assert!(Users::new(BTreeMap::from([("a".to_owned(), made.to_owned())])).is_ok());
    }
}
