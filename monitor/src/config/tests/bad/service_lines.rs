//! Lines that are wrong in a service.

/// The third line of a service after its command, and what is said of it.
pub(super) const SERVICE_LINES: &[(&str, &str)] = &[
    (
        r#"description = "two\nlines""#,
        r#"f:3: service.a.description: found the string "two\nlines", wanted one line of text without control characters"#,
    ),
    (r#"cwd = "srv""#, r#"f:3: service.a.cwd: found the string "srv", wanted an absolute path"#),
    (r#"cwd = ["/"]"#, "f:3: service.a.cwd: found an array, wanted an absolute path"),
    (
        r#"env = "A=1""#,
        r#"f:3: service.a.env: found the string "A=1", wanted a table of strings such as { RUST_LOG = "info" }"#,
    ),
    (
        r#"env = { A = 1, B = true, C = 1.5, D = "ok", "E=F" = "x", "" = "x", G = ["a"] }"#,
        r#"f:3: service.a.env."": found the name "", wanted one without = and NUL, not empty
f:3: service.a.env."E=F": found the name "E=F", wanted one without = and NUL, not empty
f:3: service.a.env.A: found the integer 1, wanted a string; write "1"
f:3: service.a.env.B: found the boolean true, wanted a string; write "true"
f:3: service.a.env.C: found the float 1.5, wanted a string; write "1.5"
f:3: service.a.env.G: found an array, wanted a string"#,
    ),
    (
        r#"env = { A = "x\u0000" }"#,
        r#"f:3: service.a.env.A: found the string "x\0", wanted a string without NUL"#,
    ),
    (
        r#"env_file = "x.env""#,
        r#"f:3: service.a.env_file: found the string "x.env", wanted an absolute path"#,
    ),
    (
        r#"user = "-1""#,
        r#"f:3: service.a.user: found the string "-1", wanted a name or a number from 0 to 4294967294"#,
    ),
    (
        r#"user = """#,
        r#"f:3: service.a.user: found the string "", wanted a name or a number from 0 to 4294967294"#,
    ),
    (
        "user = 4294967295",
        "f:3: service.a.user: found the integer 4294967295, wanted a name or a number from 0 to 4294967294",
    ),
    (
        r#"user = "a:b""#,
        r#"f:3: service.a.user: found the string "a:b", wanted a name or a number from 0 to 4294967294"#,
    ),
    (
        "user = 1.5",
        "f:3: service.a.user: found the float 1.5, wanted a name or a number from 0 to 4294967294",
    ),
    (
        r#"groups = "video""#,
        r#"f:3: service.a.groups: found the string "video", wanted an array of groups such as ["video", 44]"#,
    ),
    (
        r#"groups = ["video", -1, {}]"#,
        "f:3: service.a.groups[1]: found the integer -1, wanted a name or a number from 0 to 4294967294
f:3: service.a.groups[2]: found a table, wanted a name or a number from 0 to 4294967294",
    ),
    ("hold_ports = 80", "f:3: service.a.hold_ports: found the integer 80, wanted true or false"),
    (
        "hold_ports = true",
        "f:3: service.a.hold_ports: there is no port to hold; name them in ports, as in ports = [8080]",
    ),
    (
        "ports = [80]\nhold_ports = true\nleftovers = 'keep'",
        "f:4: service.a.hold_ports: not together with leftovers = \"keep\": what is left of a life would share its ports with the next one",
    ),
    (
        "ports = [80]\nhold_ports = true\nwhen_down = 'hold'",
        "f:4: service.a.hold_ports: not together with when_down = \"hold\": only sockets that defib opens itself can be held of a service that is down",
    ),
    (
        "ports = [80]\nhold_ports = true\n[service.b]\ncommand = ['x']\nready = { port = 80 }",
        "f:1: service.a: hold_ports, and service.b names port 80 too; a port that is held is one service's",
    ),
    (r#"autostart = "yes""#, r#"f:3: service.a.autostart: found the string "yes", wanted true or false"#),
    ("autostrat = true", "f:3: service.a.autostrat: unknown key; did you mean autostart?"),
    (
        "heath = {}",
        "f:3: service.a.heath: unknown key; known here: description, command, ports, sockets, hold_ports, pid_file, cwd, env, env_file, user, group, groups, inherit_env, umask, needs_files, service_group, log, autostart, ready, restart, stop, leftovers, hold_for, when_down",
    ),
    (r#"health = { http = "x" }"#, "f:3: service.a.health: not built yet; remove this key"),
    (
        "zzz = 1",
        "f:3: service.a.zzz: unknown key; known here: description, command, ports, sockets, hold_ports, pid_file, cwd, env, env_file, user, group, groups, inherit_env, umask, needs_files, service_group, log, autostart, ready, restart, stop, leftovers, hold_for, when_down",
    ),
    (
        "ports = 80",
        "f:3: service.a.ports: found the integer 80, wanted an array of TCP ports such as [80, 443]; write [80]",
    ),
    (
        r#"ports = "80""#,
        r#"f:3: service.a.ports: found the string "80", wanted an array of TCP ports such as [80, 443]"#,
    ),
    (
        r#"ports = [80, 0, 65536, -1, "443", 80]"#,
        r#"f:3: service.a.ports[1]: found the integer 0, wanted a TCP port from 1 to 65535
f:3: service.a.ports[2]: found the integer 65536, wanted a TCP port from 1 to 65535
f:3: service.a.ports[3]: found the integer -1, wanted a TCP port from 1 to 65535
f:3: service.a.ports[4]: found the string "443", wanted a TCP port from 1 to 65535
f:3: service.a.ports[5]: port 80 is named twice"#,
    ),
    (
        "ports = [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,63,64,65]",
        "f:3: service.a.ports: found 65 ports, wanted at most 64",
    ),
    (r#"prots = [80]"#, "f:3: service.a.prots: unknown key; did you mean ports?"),
    (
        r#"ready = "port""#,
        r#"f:3: service.a.ready: found the string "port", wanted "exec" or { port = 8080 }"#,
    ),
    ("ready = 8080", r#"f:3: service.a.ready: found the integer 8080, wanted "exec" or { port = 8080 }"#),
    (
        r#"umask = 22
service_group = "a b"
inherit_env = ["", "A=b"]
needs_files = ["etc"]"#,
        r#"f:3: service.a.umask: found the integer 22, wanted an octal mask such as "027" or 0o027, at most 777
f:4: service.a.service_group: found the string "a b", wanted the name of a group: a name starts with a letter, a digit or `_`, goes on with letters, digits, `_`, `-` and `.`, and has at most 64 bytes
f:5: service.a.inherit_env[0]: found the string "", wanted the name of a variable
f:5: service.a.inherit_env[1]: found the string "A=b", wanted the name of a variable
f:6: service.a.needs_files[0]: found the string "etc", wanted an absolute path"#,
    ),
    (
        r#"log = { max_size = "10MB", max_files = -1, max_age = 7, max_total = 0, lines = 1e9 }"#,
        r#"f:3: service.a.log.lines: found the float 1e9, wanted a whole number from 0 to 100000
f:3: service.a.log.max_age: found the integer 7, wanted a duration above zero, such as "7d", or "none"; for seconds write "7s"
f:3: service.a.log.max_files: found the integer -1, wanted a whole number from 0 to 10000
f:3: service.a.log.max_size: found the string "10MB", wanted a size such as "512M" or "10k": it is a number and a unit: k, M, G or T, each 1024 times the one before
f:3: service.a.log.max_total: found the integer 0, wanted a size such as "512M" or "10k", at least 1"#,
    ),
    (
        r#"log = { memory = "1G", layout = "x", streams = true, capture = 1, path = "x" }"#,
        r#"f:3: service.a.log.capture: found the integer 1, wanted true or false
f:3: service.a.log.layout: found the string "x", wanted "single" or "per-start"
f:3: service.a.log.memory: found the string "1G", wanted a size such as "512M" or "10k" from 0 to 16M
f:3: service.a.log.path: found the string "x", wanted an absolute path
f:3: service.a.log.streams: found the boolean true, wanted "joined" or "apart""#,
    ),
    (r#"ready = "notify""#, "f:3: service.a.ready: not built yet; remove this key"),
    (
        r#"ready = { http = "http://localhost/", delay = "1s" }"#,
        "f:3: service.a.ready.delay: not built yet; remove this key
f:3: service.a.ready.http: not built yet; remove this key",
    ),
    (
        "ready = { prot = 80 }",
        r#"f:3: service.a.ready.port: missing; ready is "exec" or { port = 8080 }
f:3: service.a.ready.prot: unknown key; did you mean port?"#,
    ),
    (
        "ready = { port = 0 }",
        "f:3: service.a.ready.port: found the integer 0, wanted a TCP port from 1 to 65535",
    ),
    ("ready = {}", r#"f:3: service.a.ready.port: missing; ready is "exec" or { port = 8080 }"#),
    (
        r#"restart = "always""#,
        r#"f:3: service.a.restart: found the string "always", wanted a table; write restart = { policy = "always" }"#,
    ),
    (
        r#"restart = "no""#,
        r#"f:3: service.a.restart: found the string "no", wanted a table such as { policy = "always" }"#,
    ),
    (r#"restart = { polcy = "always" }"#, "f:3: service.a.restart.polcy: unknown key; did you mean policy?"),
    (
        r#"restart.policy = "on-fail""#,
        r#"f:3: service.a.restart.policy: found the string "on-fail", wanted "on-failure", "always" or "never""#,
    ),
    (
        "restart.success_codes = 0",
        "f:3: service.a.restart.success_codes: found the integer 0, wanted an array of exit codes such as [0, 143]",
    ),
    (
        "restart.success_codes = [0, 256, -1]",
        "f:3: service.a.restart.success_codes[1]: found the integer 256, wanted an exit code from 0 to 255
f:3: service.a.restart.success_codes[2]: found the integer -1, wanted an exit code from 0 to 255",
    ),
    (
        r#"restart.never_codes = [3, 0, "4"]"#,
        r#"f:3: service.a.restart.never_codes[2]: found the string "4", wanted an exit code from 0 to 255"#,
    ),
    (
        "restart = { never_codes = [0, 5], success_codes = [0, 3, 5] }",
        "f:3: service.a.restart.never_codes: exit code 0 is in both success_codes and never_codes
f:3: service.a.restart.never_codes: exit code 5 is in both success_codes and never_codes",
    ),
    (
        "restart.never_codes = [0]",
        "f:3: service.a.restart.never_codes: exit code 0 is in both success_codes and never_codes",
    ),
    (
        "restart.immediate = -1",
        "f:3: service.a.restart.immediate: found the integer -1, wanted a whole number from 0 to 4294967295",
    ),
    (
        r#"restart.immediate = "one""#,
        r#"f:3: service.a.restart.immediate: found the string "one", wanted a whole number from 0 to 4294967295"#,
    ),
    (
        r#"restart = { backoff = { initial = "1s" }, delays = ["1s"] }"#,
        "f:3: service.a.restart.delays: given together with backoff; choose one of the two",
    ),
    (
        r#"restart.backoff = { initial = "2s", max = "1s" }"#,
        "f:3: service.a.restart.backoff.max: max is 1s, but must be at least initial, which is 2s",
    ),
    (
        r#"restart.backoff = { initial = "2m" }"#,
        "f:3: service.a.restart.backoff.initial: max is 1m, but must be at least initial, which is 2m",
    ),
    (
        r#"restart.backoff = { initial = "0s", max = "1ms" }"#,
        r#"f:3: service.a.restart.backoff.initial: found the string "0s", wanted a duration above zero, such as "100ms" or "1m30s""#,
    ),
    (
        "restart.backoff = { factor = 0.5, jitter = 1.1 }",
        "f:3: service.a.restart.backoff.factor: found the float 0.5, wanted a finite number, at least 1
f:3: service.a.restart.backoff.jitter: found the float 1.1, wanted a number from 0 to 1",
    ),
    (
        "restart.backoff = { factor = inf, jitter = nan }",
        "f:3: service.a.restart.backoff.factor: found the float inf, wanted a finite number, at least 1
f:3: service.a.restart.backoff.jitter: found the float nan, wanted a number from 0 to 1",
    ),
    (
        "restart.backoff = { factor = 1e400 }",
        "f:3: service.a.restart.backoff.factor: found the float 1e400, wanted a finite number, at least 1",
    ),
    (
        r#"restart.backoff = "1s""#,
        r#"f:3: service.a.restart.backoff: found the string "1s", wanted a table such as { initial = "100ms", factor = 2, max = "60s", jitter = 0.1 }"#,
    ),
    ("restart.backoff.factr = 2", "f:3: service.a.restart.backoff.factr: unknown key; did you mean factor?"),
    ("restart.delays = []", "f:3: service.a.restart.delays: the array is empty; give one delay at least"),
    (
        r#"restart.delays = "5s""#,
        r#"f:3: service.a.restart.delays: found the string "5s", wanted an array of durations such as ["5s", "10s"]"#,
    ),
    (
        r#"restart.delays = ["5s", 10, "x", "1h2h"]"#,
        r#"f:3: service.a.restart.delays[1]: found the integer 10, wanted a duration such as "100ms" or "1m30s"; for seconds write "10s"
f:3: service.a.restart.delays[2]: found the string "x", wanted a duration such as "100ms" or "1m30s": it is made of whole numbers, each with its unit
f:3: service.a.restart.delays[3]: found the string "1h2h", wanted a duration such as "100ms" or "1m30s": each unit comes once, the longest first"#,
    ),
    (
        "restart.max_restarts = 0",
        r#"f:3: service.a.restart.max_restarts: found the integer 0, wanted a whole number from 1 to 256 or "none""#,
    ),
    (
        "restart.max_restarts = 257",
        r#"f:3: service.a.restart.max_restarts: found the integer 257, wanted a whole number from 1 to 256 or "none""#,
    ),
    (
        r#"restart.max_restarts = "unlimited""#,
        r#"f:3: service.a.restart.max_restarts: found the string "unlimited", wanted a whole number from 1 to 256 or "none""#,
    ),
    (
        "restart.max_restarts = 0xffffffffffffffffffff",
        r#"f:3: service.a.restart.max_restarts: found the integer 0xffffffffffffffffffff, wanted a whole number from 1 to 256 or "none""#,
    ),
    (
        r#"restart.window = "0s""#,
        r#"f:3: service.a.restart.window: found the string "0s", wanted a duration above zero, such as "5m", or "none""#,
    ),
    (
        "restart.window = 300",
        r#"f:3: service.a.restart.window: found the integer 300, wanted a duration above zero, such as "5m", or "none"; for seconds write "300s""#,
    ),
    (
        r#"restart.window = "5 minutes""#,
        r#"f:3: service.a.restart.window: found the string "5 minutes", wanted a duration above zero, such as "5m", or "none": it is made of whole numbers, each with its unit"#,
    ),
    (
        r#"restart.give_up = "never""#,
        r#"f:3: service.a.restart.give_up: found the string "never", wanted "fail" or { retry_every = "6h" }"#,
    ),
    (
        r#"restart.give_up = { retry_every = "0s" }"#,
        r#"f:3: service.a.restart.give_up.retry_every: found the string "0s", wanted a duration above zero, such as "100ms" or "1m30s""#,
    ),
    (
        "restart.give_up = {}",
        r#"f:3: service.a.restart.give_up.retry_every: missing; give_up is "fail" or { retry_every = "6h" }"#,
    ),
    (
        r#"restart.give_up = { retry = "6h" }"#,
        r#"f:3: service.a.restart.give_up.retry: unknown key; known here: retry_every
f:3: service.a.restart.give_up.retry_every: missing; give_up is "fail" or { retry_every = "6h" }"#,
    ),
    (
        r#"restart.reset_after = "10""#,
        r#"f:3: service.a.restart.reset_after: found the string "10", wanted a duration above zero, such as "100ms" or "1m30s": a number needs its unit: d, h, m, s, ms or us"#,
    ),
    (
        r#"restart.reset_after = "40000d""#,
        r#"f:3: service.a.restart.reset_after: found the string "40000d", wanted a duration above zero, such as "100ms" or "1m30s": the longest is 36500d"#,
    ),
    (
        "restart = []",
        r#"f:3: service.a.restart: found an array, wanted a table such as { policy = "always" }"#,
    ),
    (
        r#"stop = "TERM""#,
        r#"f:3: service.a.stop: found the string "TERM", wanted a table such as { signal = "TERM", timeout = "10s" }"#,
    ),
    (
        r#"stop = { signal = "TREM", timeout = "soon" }"#,
        r#"f:3: service.a.stop.signal: found the string "TREM", wanted a signal: a signal is a name with or without SIG (TERM, SIGKILL, RTMIN+3) or a number from 1 to 64
f:3: service.a.stop.timeout: found the string "soon", wanted a duration such as "100ms" or "1m30s": it is made of whole numbers, each with its unit"#,
    ),
    (
        "stop.signal = 15",
        r#"f:3: service.a.stop.signal: found the integer 15, wanted a signal such as "TERM""#,
    ),
    (
        r#"stop = { before = ["x"], afterr = 1 }"#,
        "f:3: service.a.stop.afterr: unknown key; known here: signal, timeout
f:3: service.a.stop.before: not built yet; remove this key",
    ),
    (
        r#"leftovers = "reap""#,
        r#"f:3: service.a.leftovers: found the string "reap", wanted "kill" or "keep""#,
    ),
    (
        "leftovers = 2020-01-01",
        r#"f:3: service.a.leftovers: found the date-time 2020-01-01, wanted "kill" or "keep""#,
    ),
    (
        r#"cwd = "\u001b[2J\u202e/""#,
        r#"f:3: service.a.cwd: found the string "\u{1b}[2J\u{202e}/", wanted an absolute path"#,
    ),
];
