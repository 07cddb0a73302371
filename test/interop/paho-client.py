"""paho's client as an application and as a device, in the folder of their certificates: URL VERSION CAFILE."""

import queue
import sys
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

url, version, cafile = urlsplit(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
patience = 10


class Peer:
    def __init__(self, name, clean=True, will=None):
        self.connacks, self.messages, self.answers = queue.Queue(), queue.Queue(), queue.Queue()
        transport = "websockets" if url.scheme == "wss" else "tcp"
        options = {} if version == 5 else {"clean_session": clean}
        if hasattr(mqtt, "CallbackAPIVersion"):  # paho 2 asks for it
            options["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
        self.client = client = mqtt.Client(client_id=name, protocol=version, transport=transport, **options)
        client.tls_set(cafile, f"{name}.crt", f"{name}.key")
        if transport == "websockets":
            client.ws_set_options(path=url.path)
        client.on_connect = lambda _client, _data, flags, reason, *_: self.connacks.put((flags["session present"], reason))
        client.on_message = lambda _client, _data, message: self.messages.put(message)
        client.on_subscribe = lambda _client, _data, _id, granted, *_: self.answers.put(granted)
        if will is not None:
            client.will_set(will, "gone", 1)
        keep = {}
        if version == 5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 60
            keep = {"clean_start": clean, "properties": properties}
        client.connect(url.hostname, url.port, **keep)
        client.loop_start()
        self.present, reason = self.connacks.get(timeout=patience)
        assert reason == 0, reason

    def subscribe(self, topic, qos):
        self.client.subscribe(topic, qos)
        (granted,) = self.answers.get(timeout=patience)
        assert (granted.value if version == 5 else granted) == qos, granted

    def publish(self, topic, payload, qos, **more):
        self.client.publish(topic, payload, qos, **more).wait_for_publish(patience)

    def expect(self, payload, qos, retain=False):
        message = self.messages.get(timeout=patience)
        assert (message.payload.decode(), message.qos, bool(message.retain)) == (payload, qos, retain), vars(message)
        return message

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()


telemetry = "devices/cam-1/telemetry"

app, camera = Peer("app-1"), Peer("cam-1", will=f"{telemetry}/will")
camera.publish(f"{telemetry}/kept", "kept", 1, retain=True)
app.subscribe("devices/+/telemetry/#", 2)
app.expect("kept", 1, retain=True)
camera.publish(f"{telemetry}/kept", "", 1, retain=True)
app.expect("", 1)
for qos in (0, 1, 2):
    camera.publish(f"{telemetry}/temp", f"qos {qos}", qos)
    app.expect(f"qos {qos}", qos)
camera.subscribe("devices/cam-1/commands/#", 1)
app.publish("devices/cam-1/commands/reboot", "now", 1)
camera.expect("now", 1)

if version == 5:
    sent = Properties(PacketTypes.PUBLISH)
    sent.ContentType, sent.ResponseTopic, sent.CorrelationData = "text/plain", f"{telemetry}/answer", b"c1"
    sent.UserProperty = [("site", "berlin"), ("site", "hall 2")]
    camera.publish(f"{telemetry}/temp", "21.5", 1, properties=sent)
    got = app.expect("21.5", 1).properties
    assert got.json() == sent.json(), got.json()

# A second connection of the client id takes the first one's place, and its will is published.
camera.client.loop_stop()
again = Peer("cam-1")
app.expect("gone", 1)
app.leave()

kept = Peer("app-1", clean=False)
assert not kept.present
kept.subscribe("devices/+/telemetry/#", 1)
kept.leave()
again.publish(f"{telemetry}/missed", "missed", 1)
kept = Peer("app-1", clean=False)
assert kept.present
kept.expect("missed", 1)
kept.leave()
clean = Peer("app-1")
assert not clean.present
clean.leave()
again.leave()
