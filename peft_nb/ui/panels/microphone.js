const RATE = 16000; // samples a second that speech models take
const LONGEST_S = 30; // of a recording, as much as the model hears at once

// What each error of getUserMedia means for who wants to record.
const WHY = {
  NotAllowedError: "The browser does not let this page use the microphone. Allow it, or upload a clip.",
  NotFoundError: "There is no microphone. Upload a clip instead.",
};

// The browser decodes its own recording, whatever its format, and brings it to the rate.
async function samples(parts, type) {
  const context = new AudioContext({ sampleRate: RATE });
  try {
    const sound = await context.decodeAudioData(await new Blob(parts, { type }).arrayBuffer());
    const mono = new Float32Array(sound.length);
    for (let channel = 0; channel < sound.numberOfChannels; channel++) {
      sound.getChannelData(channel).forEach((value, at) => (mono[at] += value / sound.numberOfChannels));
    }
    return mono;
  } finally {
    context.close();
  }
}

function render({ model, el }) {
  const button = document.createElement("button");
  const told = document.createElement("span");
  let recorder;
  let timer;
  button.type = "button";
  button.className = "jupyter-button widget-button";
  told.setAttribute("role", "status");
  const show = (recording, text) => {
    button.textContent = recording ? "Stop recording" : "Record";
    button.setAttribute("aria-pressed", String(recording));
    told.textContent = ` ${text}`;
  };
  const start = async () => {
    let stream;
    try {
      // Browsers give no microphone to pages that come neither over https nor from localhost.
      if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) throw { name: "none" };
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch (error) {
      const instead = "This page cannot record: open it over https or from localhost, or upload a clip.";
      return show(false, WHY[error.name] ?? instead);
    }
    const parts = [];
    recorder = new MediaRecorder(stream);
    recorder.ondataavailable = (event) => parts.push(event.data);
    recorder.onstop = async () => {
      clearTimeout(timer);
      stream.getTracks().forEach((track) => track.stop());
      try {
        const mono = await samples(parts, recorder.mimeType);
        model.send({ rate: RATE }, undefined, [mono.buffer]);
        show(false, `${(mono.length / RATE).toFixed(1)} s recorded`);
      } catch (error) {
        show(false, `The browser cannot decode its recording: ${error.message}`);
      }
    };
    recorder.start();
    timer = setTimeout(() => recorder.stop(), LONGEST_S * 1000);
    show(true, "recording …");
  };
  button.addEventListener("click", () => (recorder?.state === "recording" ? recorder.stop() : start()));
  show(false, "");
  el.append(button, told);
  return () => {
    if (recorder?.state === "recording") recorder.stop();
  };
}

export default { render };
