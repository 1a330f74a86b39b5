"""A device in one file: what docs/protocol.md asks of an SDK, on the QUIC stack aioquic. PROTO-n are its requirements.
    python device.py --broker HOST:PORT --ca FILE --project NAME --app-key KEY [--state FILE] [--topic TOPIC]...

Prints one JSON object a line. A message is printed, then kept in the state file, then acked. SIGTERM says goodbye."""
import argparse, asyncio, contextlib, json, os, pathlib, random, secrets, signal

from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration

HELLO, REGISTER, SUBSCRIBE, ACK, GOODBYE = 1, 2, 4, 6, 11  # Kinds of frames: their field numbers in petrel.proto.
WELCOME, REGISTERED, DELIVER, SETTLED, GAP, _RECALL, RESULT, SETTINGS, RECONNECT, ERROR = range(1, 11)
RETRY, REGISTER_ANEW = {5, 14, 15, 16, 17}, {6, 7}  # The reactions of errors.md; at any other error a device stops.


def varint(number):
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def take_varint(data, at):
    if data[at] < 0x80:
        return data[at], at + 1
    higher, end = take_varint(data, at + 1)
    return data[at] & 0x7F | higher << 7, end


def field(number, value):
    """A field of a protobuf message: a number, text, or bytes, which may be a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


class Message(dict):
    """A protobuf message as {field number: [values]}. What has an unknown number is never looked at (PROTO-9)."""
    def __init__(self, data):
        at = 0
        while at < len(data):
            tag, at = take_varint(data, at)
            if tag & 7 == 0:
                value, at = take_varint(data, at)
            else:
                size, at = {1: (8, at), 5: (4, at)}.get(tag & 7) or take_varint(data, at)
                value, at = data[at:at + size], at + size
            self.setdefault(tag >> 3, []).append(value)

    def number(self, field_number):
        return self.get(field_number, [0])[-1]

    def text(self, field_number):
        return self.get(field_number, [b""])[-1].decode()

    def message(self, field_number):
        return Message(self.get(field_number, [b""])[-1])

    def id(self, field_number):
        return [self.message(field_number).number(1), self.message(field_number).number(2)]


def say(event, **more):
    print(json.dumps({"event": event, **more}, ensure_ascii=False), flush=True)


class Device:
    def __init__(self, options):
        self.options, self.address, self.file = options, options.broker, pathlib.Path(options.state)
        self.connection, self.stream, self.leaving, self.pause, self.keep_alive_seconds = None, None, False, 1, 0
        self.state = json.loads(self.file.read_text()) if self.file.exists() else self.nobody()

    def nobody(self):
        """Before `Registered`. The secret is kept even then: saying it again gives the same token (PROTO-15)."""
        return {"secret": secrets.token_hex(32), "token": "", "settled": [0, 0], "kept": []}

    def keep(self, **changes):
        self.state.update(changes)
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.state))
        new.replace(self.file)

    async def run(self):
        while True:
            self.keep()
            code, reason, wait = 0, "goodbye", 0
            with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):  # A lost connection.
                code, reason, wait = await self.session()
            if self.leaving or code and code not in RETRY | REGISTER_ANEW:
                return say("closed", code=code, reason=reason)
            if code in REGISTER_ANEW:  # PROTO-18
                say("ended", token=self.state["token"], code=code, reason=reason)
                self.state = self.nobody()
            self.pause = min(self.pause * 2, 60)
            await asyncio.sleep(max(wait, self.pause * random.uniform(0.5, 1)))

    async def session(self):
        """Returns why the broker sends the device away, and for how many seconds."""
        # Of both idle timeouts the shorter one counts: let it be the broker's, which knows its keep-alive.
        quic = QuicConfiguration(alpn_protocols=["petrel/1"], idle_timeout=86_400)
        quic.load_verify_locations(self.options.ca)
        host, _, port = self.address.replace("[", "").replace("]", "").rpartition(":")
        async with contextlib.AsyncExitStack() as stack:
            connecting = connect(host, int(port), configuration=quic)
            self.connection = await asyncio.wait_for(stack.enter_async_context(connecting), 10)
            reader, self.stream = await self.connection.create_stream()  # PROTO-2
            stack.callback(setattr, self, "stream", None)
            stack.callback(asyncio.ensure_future(self.keep_alive()).cancel)
            self.open()
            while True:
                kind, frame = await self.read_frame(reader)
                if kind == ERROR:
                    return frame.number(1), frame.text(2), frame.number(3) / 1000
                if kind == RECONNECT:  # PROTO-32
                    self.address = frame.text(2) or self.address
                    return 0, "", frame.number(1) / 1000
                self.handle(kind, frame)

    async def keep_alive(self):
        with contextlib.suppress(ConnectionError):
            while True:
                await asyncio.sleep(self.keep_alive_seconds * 0.8 or 1)  # PROTO-4
                too_late = asyncio.get_running_loop().call_later(10, self.connection.close)
                await self.connection.ping()
                too_late.cancel()

    async def read_frame(self, reader):  # PROTO-5
        prefix = await reader.readexactly(1)
        while prefix[-1] > 0x7F:
            prefix += await reader.readexactly(1)
        size, _ = take_varint(prefix, 0)
        assert size <= 65_536, "PROTO-6"
        [(kind, [body])] = Message(await reader.readexactly(size)).items()
        return kind, Message(body)

    def send(self, kind, body):
        frame = field(kind, body)
        self.stream.write(varint(len(frame)) + frame)

    def open(self):
        secret, (epoch, sequence) = bytes.fromhex(self.state["secret"]), self.state["settled"]
        if self.state["token"]:
            cursor = field(1, epoch) + field(2, sequence)  # PROTO-33
            self.send(HELLO, field(1, self.state["token"]) + field(2, secret) + field(6, cursor))
        else:
            self.send(REGISTER, field(1, self.options.project) + field(2, self.options.app_key) + field(3, secret))
        for request, topic in enumerate(self.options.topic):  # Not waiting for Welcome (PROTO-13).
            self.send(SUBSCRIBE, field(1, request) + field(2, topic))

    def handle(self, kind, frame):
        if kind == REGISTERED:
            self.keep(token=frame.text(1))
        elif kind == WELCOME:
            self.pause, self.keep_alive_seconds = 1, frame.number(2)
            self.settle(*frame.id(4))
            say("registered", token=self.state["token"])
        elif kind == SETTINGS:
            self.keep_alive_seconds = frame.number(1)
        elif kind == SETTLED:
            self.settle(*frame.id(1))
        elif kind == RESULT:
            topic, code = self.options.topic[frame.number(1)], frame.number(2)
            say("refused" if code else "subscribed", topic=topic, code=code, reason=frame.text(3))
        elif kind == DELIVER or kind == GAP:
            epoch, sequence = frame.id(1)
            if [epoch, sequence] not in self.state["kept"]:  # Else it is a repeat (PROTO-27).
                self.show(kind, frame, f"{epoch:x}-{sequence}")
                self.keep(kept=self.state["kept"] + [[epoch, sequence]])
            self.send(ACK, field(1, epoch) + field(2, varint(sequence)))  # PROTO-23

    def show(self, kind, frame, name):
        if kind == GAP:
            return say("gap", id=name, topic=frame.text(2), count=frame.number(3))
        shown, data = frame.message(4), {entry.text(1): entry.text(2) for entry in map(Message, frame.get(5, []))}
        say("message", id=name, topic=frame.text(2), title=shown.text(1), body=shown.text(2), data=data)

    def settle(self, epoch, sequence):  # What is settled does not come again: its ids need not be kept.
        self.keep(settled=[epoch, sequence], kept=[k for k in self.state["kept"] if k[0] != epoch or k[1] > sequence])

    def leave(self):
        """Ends the session, not the registration: the broker closes (PROTO-34). A second call does not wait for it."""
        if self.leaving or not self.stream:
            raise SystemExit
        self.leaving = True
        self.send(GOODBYE, b"")


async def main():
    parser = argparse.ArgumentParser(description="Is a device: prints what it is sent.")
    for name in ("--broker", "--ca", "--project", "--app-key"):
        parser.add_argument(name, required=True)
    parser.add_argument("--state", default="device.json", help="a file for secret and token")
    parser.add_argument("--topic", action="append", default=[])
    os.umask(0o077)
    device = Device(parser.parse_args())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, device.leave)
    await device.run()


if __name__ == "__main__":
    asyncio.run(main())
