// Part of Orthanc Explorer 1: from a study, a series or an instance to its report, and from the start to the worklist.
(function () {
  "use strict";

  function button(id, text, address) {
    return $("<a>")
      .attr({ id: id, href: address, rel: "external", "data-role": "button", "data-icon": "arrow-r" })
      .text(text);
  }

  function update() {
    var page = /^#(study|series|instance)\?uuid=([\w-]+)/.exec(location.hash);
    $("#chest-xray-report").remove();
    if (!page) return;
    $.getJSON("../chest-xray/of/" + page[2], function (about) {
      var there = $("#chest-xray-report").length || location.hash.indexOf(page[2]) < 0; // meanwhile
      if (there || !about.instances.length) return;
      var link = button("chest-xray-report", "Chest X-ray report", "../chest-xray/report?" + page[1] + "=" + page[2]);
      link.insertAfter("#" + page[1] + "-info").buttonMarkup();
    });
  }

  $(document).on("pageshow", update);
  $(window).on("hashchange", update); // from one study to another, the page stays shown
  $(document).on("pagebeforecreate", "#lookup", function () {
    $(this).find("#chest-xray-worklist").remove();
    // Explorer has one content within the other.
    $(this).children("[data-role=content]").append(button("chest-xray-worklist", "Chest X-ray worklist", "../chest-xray/"));
  });
})();
