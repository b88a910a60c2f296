"""What each figure is, in one line: id → name, meaning."""

DEFINITIONS = {
    "accuracy": (
        "accuracy",
        "the share of labelled images whose prediction is their label.",
    ),
    "agreement": (
        "agreement",
        (
            "the share of the four one-pixel shifts that leave an image's prediction as it is, "
            "mean over photographs; of a map of classes, the share of its pixels that keep theirs; "
            "of detections, the share that is found again, 2 · matched / (n + n_d)."
        ),
    ),
    "iou": (
        "IoU",
        (
            "intersection over union of the answers to the unshifted and the shifted picture, the "
            "shift undone: mean over the classes of a map, or over the boxes that are matched."
        ),
    ),
    "logit_instability": (
        "logit instability",
        (
            "how far the logits z move, relative to their size: mean over the shifts d of ‖z − "
            "z_d‖ / ‖z‖, each with its mean over classes removed. It does not follow confidence."
        ),
    ),
    "output_instability": (
        "output instability",
        (
            "how far maps without classes move: ‖y − y_d‖ / ‖y‖, the shift undone; where they are "
            "coarser than the picture, the same of their amplitude spectra."
        ),
    ),
    "score_movement": (
        "score movement",
        "how far the scores of matched detections move: mean of |s − s_d|.",
    ),
    "sis": (
        "SIS",
        (
            "shift instability score: mean over the shifts of 1 − cos(p, p_d) of the softmax "
            "outputs, as published. It falls by itself when a network becomes less sure."
        ),
    ),
    "sis_half": (
        "SIS at confidence ½",
        (
            "SIS of each image's logits divided by the temperature at which its prediction has "
            "probability ½: both networks are compared equally sure."
        ),
    ),
    "kept": (
        "same prediction",
        "the share of images that both models give the same class.",
    ),
    "latency": (
        "latency",
        "milliseconds an image, median over rounds that time all models.",
    ),
    "alias_share": (
        "alias share",
        (
            "‖S(D) − S(L D)‖² / ‖S(D)‖² of the map D that a layer decimates, S the sampling and L "
            "the ideal low-pass: the share of the kept samples' energy that was folded."
        ),
    ),
    "sampled_avr": (
        "sampled AVR",
        (
            "the share of the energy of D beyond the new grid's cutoff; at one place in a network "
            "and in its repaired version."
        ),
    ),
    "avr": (
        "read AVR",
        (
            "alias violation ratio, as published: the same of the map that the operation reads. "
            "In a repaired network it reads another map than in the original."
        ),
    ),
    "shifts": (
        "crop, half, native, circular shifts",
        (
            "the window moves over the photograph by one of the network's pixels; by half of one; "
            "by one of the photograph's own; or the picture is rolled, which tears its border and "
            "flatters a repair."
        ),
    ),
    "interval": (
        "95 % interval",
        (
            "Student's, widened for skewness, over photographs: the images cut from one are one "
            "observation."
        ),
    ),
}
