"""An Orthanc plugin that classifies every chest radiograph that arrives and writes the scores back as DICOM SR.

The data's way, one direction, and the order in which to read the modules:

    DICOM arrives -> `main` rings a bell and returns                        (inside Orthanc, microseconds)
      -> `dispatcher` reads Orthanc's change log: which instances are to do (a child process)
        -> `worker` fetches the file                                        (a process of the dispatcher's pool)
          -> `analysis`: DICOM bytes -> report and SR                       (pure)
               `eligibility`  is this instance ours to classify
               `pixels`       Dataset -> model input; `decoding` reads the attributes,
                              `codestreams` the transfer syntaxes
               `classifier`   model input -> scores and activation maps (`engine`, `torch_engine`: on a GPU;
                              `servers`: on inference servers elsewhere)
               `activation`   where in the image the evidence for each finding lies
               `report`       everything that is said about the image
               `sr`           source Dataset + report -> DICOM SR: what it takes over from the image (`inherited`),
                              its content tree (`content`, `codes`), and the way back (`sr_reader`)
               `outputs`      the same for viewers that show no SR, if wanted: `summary_image`, `summary_pdf`
        -> `worker` has it stored by `filing`, then marks the instance with its JSON; `provenance` tells `filing`
           which documents of a study are copies of ours
      -> `listing` keeps a `worklist` of all marks, a file that can be made again at any time; `metrics` counts;
         `orphans` are reports whose image is gone, which go, too
    people and programs ask `routes`, inside Orthanc again, which only reads: one mark from Orthanc, lists of them from
    that file, by `query`

Where several Orthancs share one database, `claims` tells which of them does an image, and `changelog` finds what their
log shows late; `loopback` is what the SDK cannot do inside Orthanc, `thread_state` what CPython does there too often;
`scratch` folders are gone after a crash, too. What is written to Orthanc's metadata and properties stands in `marks`.

`archive` is everything that is said to Orthanc over HTTP, `settings` what an operator chooses (`limits`: what the
machine allows), and `weights` turns TorchXRayVision's checkpoint into the model that `classifier` runs (`stand_in`
makes a random one in its place); `verify`, `backfill` and `model_repository` (with `mlserver_model`) are commands for
operators, `results` one for researchers; `reference` makes the page docs/configuration.md.
"""

__version__ = "0.2.0"
