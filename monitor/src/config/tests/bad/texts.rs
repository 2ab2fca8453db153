//! Texts that are wrong outside of services, or as a whole.

/// A text, and what is said of it.
pub(super) const TEXTS: &[(&str, &str)] = &[
    ("a = ", "f:1: not valid TOML: string values must be quoted, expected literal string"),
    (r#"command = "x"#, r#"f:1: not valid TOML: invalid basic string, expected `"`"#),
    (
        r#"[service.a]
command = "x"
command = "y""#,
        r#"f:3: not valid TOML: duplicate key: "command""#,
    ),
    (
        r#"[service.a]
command = "x"
[service.a]
cwd = "/""#,
        r#"f:3: not valid TOML: duplicate key: "a""#,
    ),
    (
        "just words
[oops
x = 1",
        "f:1: not valid TOML: key with no value, expected `=`
f:2: not valid TOML: unclosed table, expected `]`",
    ),
    ("x = [1,", "f:1: not valid TOML: unclosed array, expected `]`"),
    ("commmand = 1", "f:1: commmand: unknown key; known here: daemon, listen, ports, defaults, service"),
    ("\x1b]0;hi = 1", "f:1: not valid TOML: key with no value, expected `=`"),
    (
        r#""\u001b]0;hi" = 1"#,
        r#"f:1: "\u{1b}]0;hi": unknown key; known here: daemon, listen, ports, defaults, service"#,
    ),
    ("services = 1", "f:1: services: unknown key; did you mean service?"),
    (
        r#"[listen]
metrics = "9977"
api = "x""#,
        r#"f:2: listen.metrics: found the string "9977", wanted an address and a port such as "127.0.0.1:9977", or "" for none
f:3: listen.api: unknown key; known here: metrics, web_config, max_series"#,
    ),
    (
        r#"[listen]
web_config = "web.yml"
max_series = 0"#,
        r#"f:2: listen.web_config: found the string "web.yml", wanted the absolute path of a web configuration file, or "" for none
f:3: listen.max_series: found the integer 0, wanted a whole number from 1 to 1000000"#,
    ),
    (
        r#"[listen]
web_config = 5
max_series = "none""#,
        r#"f:2: listen.web_config: found the integer 5, wanted the absolute path of a web configuration file, or "" for none
f:3: listen.max_series: found the string "none", wanted a whole number from 1 to 1000000"#,
    ),
    ("ports = [80]", r#"f:1: ports: found an array, wanted a table such as { watch = [22, "8000-8099"] }"#),
    (
        "[ports]
watch = 22
wacth = 1",
        r#"f:2: ports.watch: found the integer 22, wanted an array of TCP ports and ranges such as [22, "8000-8099"]; write [22]
f:3: ports.wacth: unknown key; did you mean watch?"#,
    ),
    (
        r#"[ports]
watch = "8000-8099""#,
        r#"f:2: ports.watch: found the string "8000-8099", wanted an array of TCP ports and ranges such as [22, "8000-8099"]; write ["8000-8099"]"#,
    ),
    (
        r#"[ports]
watch = [
  0,
  65536,
  "65535-65536",
  "80-70",
  "80-",
  "+1-2",
  "http",
  2.5,
  22, 443, "400-500", "20-30",
  443,
]"#,
        r#"f:3: ports.watch[0]: found the integer 0, wanted a TCP port from 1 to 65535, or a range of them such as "8000-8099"
f:4: ports.watch[1]: found the integer 65536, wanted a TCP port from 1 to 65535, or a range of them such as "8000-8099"
f:5: ports.watch[2]: found the string "65535-65536", wanted a TCP port from 1 to 65535, or a range of them such as "8000-8099"
f:6: ports.watch[3]: found the string "80-70", wanted a TCP port from 1 to 65535, or a range of them such as "8000-8099"; write "70-80"
f:7: ports.watch[4]: found the string "80-", wanted a TCP port from 1 to 65535, or a range of them such as "8000-8099"
f:8: ports.watch[5]: found the string "+1-2", wanted a TCP port from 1 to 65535, or a range of them such as "8000-8099"
f:9: ports.watch[6]: found the string "http", wanted a TCP port from 1 to 65535, or a range of them such as "8000-8099"
f:10: ports.watch[7]: found the float 2.5, wanted a TCP port from 1 to 65535, or a range of them such as "8000-8099"
f:11: ports.watch[10]: port 443 is named twice; name each once
f:11: ports.watch[11]: port 22 is named twice; name each once
f:12: ports.watch[12]: port 443 is named twice; name each once"#,
    ),
    (
        r#"[ports]
watch = ["100-200", "150-300"]"#,
        "f:2: ports.watch[1]: ports 150 to 200 are named twice; name each once",
    ),
    (
        r#"[ports]
watch = ["1-5000"]"#,
        "f:2: ports.watch: found 5000 ports, wanted at most 4096 in all; name fewer",
    ),
    (
        r#"[daemon]
state_dri = "/x""#,
        "f:2: daemon.state_dri: unknown key; did you mean state_dir?",
    ),
    (
        r#"[daemon]
state_dir = "var/lib""#,
        r#"f:2: daemon.state_dir: found the string "var/lib", wanted an absolute path"#,
    ),
    (
        "[daemon]
state_dir = 5",
        "f:2: daemon.state_dir: found the integer 5, wanted an absolute path",
    ),
    (
        r#"[daemon]
runtime_dir = "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa""#,
        r#"f:2: daemon.runtime_dir: found the string "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"…, wanted an absolute path of at most 96 bytes, because the address of the socket in it is limited"#,
    ),
    (
        r#"[daemon]
source = "epbf""#,
        r#"f:2: daemon.source: found the string "epbf", wanted "auto", "ebpf", "proc-connector" or "pidfd""#,
    ),
    (
        r#"[daemon]
log_dir = "/a\u0000b"
pid_dir = "run"
log = { to = "syslog", format = "xml", level = "loud" }"#,
        r#"f:2: daemon.log_dir: found the string "/a\0b", wanted an absolute path
f:3: daemon.pid_dir: found the string "run", wanted an absolute path
f:4: daemon.log.format: found the string "xml", wanted "text" or "json"
f:4: daemon.log.level: found the string "loud", wanted error, warn, info, debug or trace, also by module as in "info,defib::source=debug"
f:4: daemon.log.to: found the string "syslog", wanted "stderr", "journal" or the absolute path of a file"#,
    ),
    (
        r#"[daemon]
watchdog = "500ms""#,
        r#"f:2: daemon.watchdog: found the string "500ms", wanted a duration of at least 1s, such as "30s", or "none""#,
    ),
    (
        r#"[daemon]
watchdog = """#,
        r#"f:2: daemon.watchdog: found the string "", wanted a duration of at least 1s, such as "30s", or "none": it is made of whole numbers, each with its unit"#,
    ),
    (r#"daemon = "/etc""#, r#"f:1: daemon: found the string "/etc", wanted a table"#),
    (
        r#"[defaults]
command = "x"
description = "y"
ports = [80]"#,
        "f:2: defaults.command: belongs to one service; move it to its [service.NAME]
f:3: defaults.description: belongs to one service; move it to its [service.NAME]
f:4: defaults.ports: belongs to one service; move it to its [service.NAME]",
    ),
    (
        r#"[defaults]
profile = "flawless"
health = {}"#,
        r#"f:2: defaults.profile: found the string "flawless", wanted "flowless", "dixwatcher", "flowweaver", "processmonitor" or "lifecycle"
f:3: defaults.health: not built yet; remove this key"#,
    ),
    (
        r#"[defaults]
stop = { timeout = 10 }
[service.a]
command = "x"
[service.b]
command = "x""#,
        r#"f:2: defaults.stop.timeout: found the integer 10, wanted a duration such as "100ms" or "1m30s"; for seconds write "10s""#,
    ),
    (
        r#"service = "api""#,
        r#"f:1: service: found the string "api", wanted a table [service.NAME] for each service"#,
    ),
    (
        r#"[[service]]
name = "a""#,
        "f:1: service: found an array, wanted a table [service.NAME] for each service",
    ),
    (
        "[service]
api = 1",
        "f:2: service.api: found the integer 1, wanted a table with the keys of a service",
    ),
    (
        r#"[service."a b"]
command = "x""#,
        r#"f:1: service."a b": not a name for a service: a name starts with a letter, a digit or `_`, goes on with letters, digits, `_`, `-` and `.`, and has at most 64 bytes"#,
    ),
    (
        r#"[service.-a]
command = "x""#,
        "f:1: service.-a: not a name for a service: a name starts with a letter, a digit or `_`, goes on with letters, digits, `_`, `-` and `.`, and has at most 64 bytes",
    ),
    (
        "[service.a]",
        r#"f:1: service.a.command: missing; name the program, as in command = ["/usr/bin/api", "--port", "80"]"#,
    ),
    (
        "[service.a]
command = 5",
        r#"f:2: service.a.command: found the integer 5, wanted a command: an array such as ["/usr/bin/api", "--port", "80"], or one string"#,
    ),
    (
        "[service.a]
command = []",
        "f:2: service.a.command: the command is empty; name a program",
    ),
    (
        r#"[service.a]
command = """#,
        "f:2: service.a.command: the command is empty; name a program",
    ),
    (
        r#"[service.a]
command = "   ""#,
        "f:2: service.a.command: the command is empty; name a program",
    ),
    (
        r#"[service.a]
command = ["", "x"]"#,
        "f:2: service.a.command: the program, the first word of the command, is empty",
    ),
    (
        r#"[service.a]
command = ["a", 5, "c", true]"#,
        r#"f:2: service.a.command[1]: found the integer 5, wanted a string; write "5"
f:2: service.a.command[3]: found the boolean true, wanted a string; write "true""#,
    ),
    (
        r#"[service.a]
command = ["a\u0000"]"#,
        r#"f:2: service.a.command[0]: found the string "a\0", wanted a string without NUL"#,
    ),
    (
        r#"[service.a]
command = "a\u0000b""#,
        r#"f:2: service.a.command: found the string "a\0b", wanted a string without NUL"#,
    ),
    (
        r#"[service.a]
command = "sort < in | uniq > out""#,
        r#"f:2: service.a.command: found the string "sort < in | uniq > out", in which < needs a shell, and defib uses none; write command = ["sh", "-c", "…"], or quote the sign if it has no meaning there"#,
    ),
    (
        r#"[service.a]
command = "echo $HOME""#,
        r#"f:2: service.a.command: found the string "echo $HOME", in which $ needs a shell, and defib uses none; write command = ["sh", "-c", "…"], or quote the sign if it has no meaning there"#,
    ),
    (
        r#"[service.a]
command = "echo 'open""#,
        r#"f:2: service.a.command: found the string "echo 'open", wanted a command whose quotes are closed and which does not end in a backslash"#,
    ),
    (
        r#"[service.a]
command = "x"
depends_on = { db = "ready" }
stage = "exec""#,
        "f:3: service.a.depends_on: not built yet; remove this key
f:4: service.a.stage: not built yet; remove this key",
    ),
    (
        r#"[service.a]
command = "x"
sockets = ["tcp:80", "tcp:localhost:80", "unix:run", 5, "udp:[::1]:53", "udp:[::1]:53"]"#,
        r#"f:3: service.a.sockets[0]: found the string "tcp:80", wanted an address such as "tcp:0.0.0.0:8080", "udp:[::1]:53", "unix:/run/x.sock" or "unix-dgram:/run/x.sock": the address is missing: 0.0.0.0 is all of IPv4, [::] all there is
f:3: service.a.sockets[1]: found the string "tcp:localhost:80", wanted an address such as "tcp:0.0.0.0:8080", "udp:[::1]:53", "unix:/run/x.sock" or "unix-dgram:/run/x.sock": what follows is no numeric address with a port
f:3: service.a.sockets[2]: found the string "unix:run", wanted an address such as "tcp:0.0.0.0:8080", "udp:[::1]:53", "unix:/run/x.sock" or "unix-dgram:/run/x.sock": the path is not absolute
f:3: service.a.sockets[3]: found the integer 5, wanted an array of sockets such as ["tcp:0.0.0.0:8080", { listen = "unix:/run/x.sock", mode = "0660" }]
f:3: service.a.sockets[5]: udp:[::1]:53 is named twice"#,
    ),
    (
        r#"[service.a]
command = "x"
sockets = [{ listen = "tcp:0.0.0.0:80", mode = "0660", v6only = true }, { listen = "udp:[::]:53", backlog = 0, name = "a b" }, { mode = "999" }]
when_down = "wait""#,
        r#"f:3: service.a.sockets[0].mode: belongs to unix sockets; remove it
f:3: service.a.sockets[0].v6only: belongs to sockets of IPv6; remove it
f:3: service.a.sockets[1].backlog: belongs to sockets to which one connects; remove it
f:3: service.a.sockets[1].backlog: found the integer 0, wanted how many connections may wait, at least 1
f:3: service.a.sockets[1].name: found the string "a b", wanted a name of 1 to 255 printable ASCII characters without blank and colon
f:3: service.a.sockets[2].listen: missing; name an address such as "tcp:0.0.0.0:8080", "udp:[::1]:53", "unix:/run/x.sock" or "unix-dgram:/run/x.sock"
f:3: service.a.sockets[2].mode: found the string "999", wanted octal permissions such as "0660" or 0o660, at most 777
f:4: service.a.when_down: found the string "wait", wanted "refuse" or "hold""#,
    ),
];
