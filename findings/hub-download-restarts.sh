#!/usr/bin/env bash
# huggingface_hub 2.4.0: an interrupted download starts from the beginning in the next process.
#
# Expected: hf_hub_download of a large file is interrupted with Ctrl-C after some megabytes; the
# same call in a new process continues its .incomplete file with a Range request.
# Happens: the partial file is deleted when the process is interrupted, and the next process
# requests the whole file.
# Hurt: everybody on a slow or unstable line; the weights of a large model never arrive.
#
# Runs a small server that answers as the hub does. Fails if the behavior changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet huggingface_hub==2.4.0
cat > "$work/observe.py" <<'PYTHON'
import hashlib, http.server, json, os, pathlib, signal, subprocess, sys, threading, time

work = pathlib.Path(sys.argv[1])
BODY = os.urandom(16_000_000)
SHA = hashlib.sha256(BODY).hexdigest()
requests, pause = [], [0.3]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        if "/resolve/" not in self.path:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            return with_body and self.wfile.write(b"{}")
        asked = self.headers.get("Range")
        if with_body:
            requests.append(asked)
        first = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        body = BODY[first:]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{SHA}"')
        self.send_header("X-Linked-Etag", f'"{SHA}"')
        self.send_header("X-Linked-Size", str(len(BODY)))
        self.send_header("X-Repo-Commit", "0" * 39 + "1")
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(BODY) - 1}/{len(BODY)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        try:
            for start in range(0, len(body), 1 << 20):
                self.wfile.write(body[start : start + (1 << 20)])
                time.sleep(pause[0])
        except OSError:
            pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}"
home = work / "home"
environment = {
    **os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
code = "from huggingface_hub import hf_hub_download as d; d('org/model', 'model.safetensors')"
command = [sys.executable, "-c", code]


def partial():
    return [file.stat().st_size for file in home.rglob("*.incomplete")]


quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
first = subprocess.Popen(command, env=environment, **quiet)
deadline = time.monotonic() + 60
while time.monotonic() < deadline and max(partial(), default=0) < 3_000_000:
    time.sleep(0.05)
before = partial()
first.send_signal(signal.SIGINT)
first.wait()
after = partial()
pause[0] = 0
requests.clear()
second = subprocess.run(command, env=environment, check=False, **quiet)
print("partial file before the interruption:", before, "bytes; after it:", after)
print("exit code of the next process:", second.returncode, "; its Range headers:", requests)
if not before or after or second.returncode or requests != [None]:
    sys.exit("the behavior has changed")
PYTHON
"$work/venv/bin/python" -c 'import huggingface_hub; print("huggingface_hub", huggingface_hub.__version__)'
"$work/venv/bin/python" "$work/observe.py" "$work"
