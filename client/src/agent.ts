/** `@keyturn/client/agent`: for programs that can not take the library. Needs Node. */
export { type AgentEvent, type AgentOptions, runAgent } from './agent/agent.ts'
export { type AgentConfig, AgentConfigError, readAgentConfig } from './agent/config.ts'
export { type First, readFirst } from './agent/first.ts'
export { openStore } from './agent/stores.ts'
