/** `@keyturn/client/kubernetes`: needs Node. */
export { type KubernetesOptions, kubernetesStore } from './stores/kubernetes.ts'
