// Search in pages that are opened from a disk: browsers start no worker from a file, so its script runs in a hidden frame.
// (The theme's "offline" plugin would load a script of this kind from another host, unless one of this name is configured.)
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inside = this.frame.contentWindow
      inside.__index = window.__index
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      const script = inside.document.createElement("script")
      script.src = new URL(url, location.href)
      this.loaded = new Promise(done => (script.onload = done))
      inside.document.body.append(script)
    }
    postMessage(data) {
      this.loaded.then(() => {
        const inside = this.frame.contentWindow
        inside.dispatchEvent(new inside.MessageEvent("message", { data }))
      })
    }
    terminate() {
      this.frame.remove()
    }
  }
}
