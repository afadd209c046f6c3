import type { Hub } from './hub.ts'
import type { Config } from './settings.ts'

/** Where everything is, and what to try, for the person who starts the hub. */
export function welcome({ host, data, durability, tlsCert }: Config, hub: Hub): string {
  const secure = tlsCert !== ''
  const http = `${secure ? 'https' : 'http'}://${host}:${hub.httpPort}`
  const doors = [
    ...(hub.mqttTlsPort === null ? [] : [`mqtts://${host}:${hub.mqttTlsPort}`]),
    ...(hub.mqttPort === null ? [] : [`mqtt://${host}:${hub.mqttPort}`]),
    `${secure ? 'wss' : 'ws'}://${host}:${hub.httpPort}/mqtt`,
  ]
  // A certificate that nobody else knows is at least good for itself.
  const token = hub.access.open ? '' : ` -H 'Authorization: Bearer hub_…'`
  const curl = `${secure ? `curl --cacert ${tlsCert}` : 'curl'}${token}`
  const login = hub.access.open ? '' : ' -u kitchen -P hub_…'
  const publish =
    hub.mqttPort === null
      ? `mosquitto_pub -h ${host} -p ${hub.mqttTlsPort} --cafile ${tlsCert}`
      : `mosquitto_pub -p ${hub.mqttPort}`
  const tries = [
    ...(hub.mqttPort === null && hub.mqttTlsPort === null
      ? []
      : [`${publish}${login} -q 1 -t devices/kitchen/telemetry -m '{"temperature":21.5}'`]),
    `${curl} '${http}/v1/devices/kitchen/telemetry'`,
    `${curl} -N -H 'Accept: text/event-stream' '${http}/v1/feed?after=earliest'`,
  ]
  return `
  MQTT       ${doors.join('   ')}
  Dashboard  ${http}/
  API        ${http}/docs
  Data       ${data}/hub.db
  Durability ${durability === 'fsync' ? 'fsync: what is acknowledged survives a power cut' : 'os: what is acknowledged survives a killed process, not a power cut'}

  Try        ${tries.join('\n             ')}

`
}
