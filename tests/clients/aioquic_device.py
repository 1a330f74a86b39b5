"""The device of docs/guides/device.py with levers for what tests/stacks.rs does to its connection.

Takes the same arguments. Takes commands from standard input, one a line, and prints `{"event": "done", …}` when one is
carried out and, where it sends something, the broker's stack has answered.
"""
import asyncio, pathlib, sys

sys.dont_write_bytecode = True  # Not beside the guide.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "docs/guides"))
import device as guide


class Device(guide.Device):
    async def run(self):
        commands = asyncio.ensure_future(self.obey())
        await super().run()
        commands.cancel()

    async def obey(self):
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := (await lines.readline()).decode().strip():
            await {"ping": self.ping, "migrate": self.migrate, "key-update": self.update_keys, "close": self.close}[line]()
            guide.say("done", command=line)

    async def ping(self):
        await self.connection.ping()

    async def migrate(self):
        """Goes on from another socket and under another connection id (RFC 9000 section 9)."""
        # The connection takes each socket that is made for it as the one to send from, and hears what comes to any.
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self.connection, local_addr=("::", 0))
        self.connection.change_connection_id()
        await self.ping()

    async def update_keys(self):
        """The next update may only follow once this one is acknowledged (RFC 9001 section 6.1)."""
        self.connection.request_key_update()
        await self.ping()

    async def close(self):
        self.leave()


guide.Device = Device
asyncio.run(guide.main())
