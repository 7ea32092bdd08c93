//! A browser for the tests of pages: Chromium, driven over its own pipe. Where there is none, a test says
//! so and passes.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

fn installed() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return Some(path.into());
    }
    let folders = std::env::var_os("PATH")?;
    let mut paths =
        std::env::split_paths(&folders).flat_map(|dir| NAMES.map(|name| dir.join(name)));
    paths.find(|path| path.is_file())
}

/// A running browser with one page.
pub(crate) struct Browser {
    child: Child,
    ask: ChildStdin,
    hear: BufReader<ChildStdout>,
    next: u64,
    session: Option<Value>,
    /// Its own, which goes with it.
    pub(crate) folder: PathBuf,
    /// What the page's script threw.
    pub(crate) thrown: Vec<String>,
}

impl Browser {
    fn start(program: &Path, folder: &Path) -> Self {
        // The browser's pipe is descriptors 3 and 4.
        let line = "exec \"$0\" --headless --no-sandbox --disable-gpu --no-first-run \
                    --user-data-dir=\"$1\" --remote-debugging-pipe 3<&0 4>&1 </dev/null >/dev/null";
        let mut child = Command::new("sh")
            .args(["-c", line])
            .arg(program)
            .arg(folder.join("profile"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (ask, hear) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (hear, folder) = (BufReader::new(hear), folder.to_owned());
        let mut browser =
            Self { child, ask, hear, next: 0, session: None, folder, thrown: Vec::new() };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        browser.session = Some(browser.call("Target.attachToTarget", attach)["sessionId"].clone());
        browser.call("Runtime.enable", json!({}));
        browser.call("Page.enable", json!({}));
        browser
    }

    fn hear(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.hear.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser has ended");
        let message: Value = serde_json::from_slice(&bytes).unwrap();
        if message["method"] == "Runtime.exceptionThrown" {
            self.thrown.push(message["params"]["exceptionDetails"].to_string());
        }
        message
    }

    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.clone();
        }
        write!(self.ask, "{message}\0").unwrap();
        loop {
            let mut answer = self.hear();
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    pub(crate) fn open(&mut self, path: &Path) {
        let url = format!("file://{}", path.display());
        self.call("Page.navigate", json!({"url": url}));
        while self.hear()["method"] != "Page.loadEventFired" {}
    }

    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    pub(crate) fn mouse(&mut self, kind: &str, x: f64, y: f64, more: &Value) {
        let mut params = json!({"type": kind, "x": x, "y": y});
        for (key, value) in more.as_object().unwrap() {
            params[key] = value.clone();
        }
        self.call("Input.dispatchMouseEvent", params);
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A browser, or none with the reason on the test's output.
pub(crate) fn browser(name: &str) -> Option<Browser> {
    let Some(program) = installed() else {
        // Past the test's own output, which nobody sees of a test that passes.
        let why = "no Chromium in PATH or CHROMIUM; scripts/install-chromium installs it";
        let mut stderr = std::io::stderr();
        writeln!(stderr, "browser test {name:?} SKIPPED: {why}").unwrap();
        return None;
    };
    let folder = std::env::temp_dir().join(format!("oarlock-page-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    Some(Browser::start(&program, &folder))
}
